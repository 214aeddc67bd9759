// farswap.native: the Python module of the native core. The files of this folder check arguments,
// release the GIL and turn errors into exceptions; they have no other logic.
#include <nanobind/nanobind.h>

#include "bind/host_engine.h"
#include "bind/page_server.h"

NB_MODULE(native, m) {
  m.doc() = "The native core of farswap: the host's data path and the memory server's page store.";
  // A process ends with its State, which must not be unmapped.
  nanobind::set_leak_warnings(false);
  farswap::bind::BindHostState(m);
  farswap::bind::BindHostEngine(m);
  farswap::bind::BindPageServer(m);
}
