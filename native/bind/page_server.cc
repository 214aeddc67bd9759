#include "bind/page_server.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "store/page_server.h"

namespace nb = nanobind;

namespace farswap::bind {
namespace {

std::unique_ptr<store::PageServer> CreateServer(const std::string& listen, const std::string& path,
                                                std::uint64_t capacity_bytes,
                                                std::uint64_t block_cache_bytes,
                                                std::uint32_t keepalive_ms) {
  auto server = [&] {
    nb::gil_scoped_release unlocked;
    return store::PageServer::Create(
        {listen, path, capacity_bytes, block_cache_bytes, std::chrono::milliseconds(keepalive_ms)});
  }();
  if (!server.ok()) {
    throw std::runtime_error(server.error().message);
  }
  return std::move(server.value());
}

nb::dict Stats(const store::PageServer& server) {
  const auto stats = [&] {
    nb::gil_scoped_release unlocked;
    return server.Stats();
  }();
  nb::dict by_name;
  for (const auto& [name, value] : stats) {
    by_name[name.c_str()] = value;
  }
  return by_name;
}

nb::bytes IncarnationOf(const store::VolumeInfo& volume) {
  return nb::bytes(volume.incarnation.data(), volume.incarnation.size());
}

}  // namespace

void BindPageServer(nb::module_& m) {
  nb::class_<store::VolumeInfo>(m, "Volume", "One host's device, as kept here.")
      .def_ro("volume_id", &store::VolumeInfo::volume_id)
      .def_ro("host_id", &store::VolumeInfo::host_id)
      .def_ro("device", &store::VolumeInfo::device)
      .def_prop_ro("incarnation", &IncarnationOf)
      .def_ro("epoch", &store::VolumeInfo::epoch)
      .def_ro("pages", &store::VolumeInfo::pages)
      .def_ro("bytes", &store::VolumeInfo::bytes)
      .def_ro("garbage", &store::VolumeInfo::garbage, "Being deleted in the background.");
  nb::class_<store::PageServer>(m, "PageServer",
                                "A store of pages and its gRPC service, on threads of its own. "
                                "Raises RuntimeError when it cannot be opened or cannot listen.")
      .def(nb::new_(&CreateServer), nb::kw_only(), nb::arg("listen"), nb::arg("path"),
           nb::arg("capacity_bytes"), nb::arg("block_cache_bytes"), nb::arg("keepalive_ms"))
      .def_prop_ro("port", &store::PageServer::port, "The bound one.")
      .def("stats", &Stats, nb::sig("def stats(self) -> dict[str, int]"),
           "Gauges and counters, by name.")
      .def("volumes", &store::PageServer::Volumes, nb::call_guard<nb::gil_scoped_release>())
      .def(
          "stop",
          [](store::PageServer& server, std::uint32_t grace_ms) {
            server.Stop(std::chrono::milliseconds(grace_ms));
          },
          nb::arg("grace_ms"), nb::call_guard<nb::gil_scoped_release>(),
          "Ends streams, flushes and closes the store. Idempotent.");
}

}  // namespace farswap::bind
