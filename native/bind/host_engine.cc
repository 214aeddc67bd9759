#include "bind/host_engine.h"

#include <string>
#include <utility>

#include "base/reclaim_path.h"

namespace farswap::bind {
namespace {

void BindRecords(nb::module_& m) {
  nb::class_<ReclaimProtection>(m, "ReclaimProtection")
      .def_ro("subject", &ReclaimProtection::subject)
      .def_ro("granted", &ReclaimProtection::granted)
      .def_ro("message", &ReclaimProtection::message);
  using Connection = nbd::ConnectionSet::Info;
  nb::class_<Connection>(m, "NbdConnection")
      .def_ro("id", &Connection::id)
      .def_ro("peer", &Connection::peer)
      .def_ro("requests", &Connection::requests)
      .def_ro("errors", &Connection::errors)
      .def_ro("last_refusal", &Connection::last_refusal);
  using Server = remote::Cluster::ServerInfo;
  nb::class_<Server>(m, "MemoryServer")
      .def_ro("address", &Server::address)
      .def_prop_ro("state", [](const Server& it) { return remote::NameOf(it.state); })
      .def_prop_ro("connected", [](const Server& it) { return it.connected(); })
      .def_ro("capacity_bytes", &Server::capacity_bytes)
      .def_ro("used_bytes", &Server::used_bytes)
      .def_ro("epoch", &Server::epoch)
      .def_ro("reconnects", &Server::reconnects)
      .def_ro("last_error", &Server::last_error)
      .def_ro("disconnected_ms", &Server::disconnected_ms)
      .def_ro("shards", &Server::shards)
      .def_ro("uuid", &Server::uuid)
      .def_ro("owner_name", &Server::owner_name)
      .def_ro("owner_address", &Server::owner_address)
      .def_ro("lost_shards", &Server::lost_shards)
      .def_ro("unclean_restarts", &Server::unclean_restarts);
}

}  // namespace

void BindHostEngine(nb::module_& m) {
  using namespace nb::literals;
  using NoGil = nb::call_guard<nb::gil_scoped_release>;
  BindRecords(m);
  m.def("enter_reclaim_path", &EnterReclaimPath,
        "Prepares this process for the reclaim path. Call it before any thread starts.");
  nb::class_<HostEngine> engine(
      m, "HostEngine", "A host's data path: NBD connections, the local tier, memory servers.");
  BindHostTier(m, engine);
  BindHostAttribution(m, engine);
  engine
      .def(nb::init<std::uint64_t, std::uint64_t, std::uint32_t, std::uint64_t, std::uint64_t,
                    std::vector<std::string>, std::string, std::string, bool>(),
           nb::kw_only(), "slots"_a, "pool_bytes_max"_a, "accept_threshold_percent"_a,
           "store_wait_ms"_a, "fetch_wait_ms"_a, "servers"_a, "host_id"_a, "device"_a,
           "take_over"_a, "Starts the engine's threads. RuntimeError if a resource is missing.")
      .def_prop_ro("incarnation", &HostEngine::Incarnation,
                   "16 random bytes that identify the slot table.")
      .def("serve", &HostEngine::Serve, "fd"_a, "initial"_a, "peer"_a,
           "Serves a stream socket after its NBD handshake; always takes over the descriptor. "
           "`initial`: bytes that the client sent after the handshake. Returns the id.")
      .def("connections", &HostEngine::Connections, NoGil(), "Connections being served.")
      .def("close_connection", &HostEngine::CloseConnection, NoGil(), "id"_a,
           "Ends a connection; False if the id is unknown.")
      .def("wait_connection", &HostEngine::WaitConnection, NoGil(), "id"_a, "timeout_ms"_a,
           "Waits until a connection has ended; False on timeout.")
      .def("servers", &HostEngine::Servers, NoGil(), "Memory servers, as seen by this host.")
      .def("stop", &HostEngine::Stop, NoGil(),
           "Ends connections, sessions and threads. Afterwards only stats() may be called. "
           "Idempotent.");
}

}  // namespace farswap::bind
