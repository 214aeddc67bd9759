#include "bind/host_engine.h"

#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/reclaim_path.h"

namespace farswap::bind {
namespace {

using std::chrono::milliseconds;

std::unique_ptr<Engine> CreateEngine(const std::shared_ptr<tier::State>& state,
                                     std::uint32_t accept_threshold_percent,
                                     std::uint64_t store_wait_ms, std::uint64_t fetch_wait_ms,
                                     std::vector<std::string> servers, std::string host_id,
                                     std::string device, bool take_over, std::size_t replicas,
                                     std::string spread, std::uint64_t repair_after_ms,
                                     std::uint64_t rebalance_every_ms,
                                     const std::vector<std::pair<int, nb::bytes>>& rings) {
  EngineConfig config;
  for (const auto& [descriptor, parameters] : rings) {
    nbd::KeptConnections::Ring& ring = config.rings.emplace_back();
    if (parameters.size() != sizeof(ring.parameters)) throw nb::value_error("no io_uring_params");
    ring.descriptor = descriptor;
    std::memcpy(&ring.parameters, parameters.c_str(), sizeof(ring.parameters));
  }
  config.tier.accept_threshold_percent = accept_threshold_percent;
  config.tier.store_wait = milliseconds(store_wait_ms);
  config.cluster.servers = std::move(servers);
  config.cluster.host_id = std::move(host_id);
  config.cluster.device = std::move(device);
  config.cluster.take_over = take_over;
  config.cluster.replicas = replicas;
  config.cluster.spread = std::move(spread);
  config.cluster.repair_after = milliseconds(repair_after_ms);
  config.cluster.rebalance_every = milliseconds(rebalance_every_ms);
  config.cluster.fetch_wait = milliseconds(fetch_wait_ms);
  auto created = [&] {
    nb::gil_scoped_release release;
    return Engine::Create(std::move(config), state);
  }();
  if (!created.ok()) throw std::runtime_error(created.error().message);
  return std::move(created.value());
}

std::uint64_t Serve(Engine& self, int fd, const nb::bytes& initial, std::string peer) {
  const std::span bytes(reinterpret_cast<const std::byte*>(initial.c_str()), initial.size());
  auto id = [&] {
    nb::gil_scoped_release release;
    return self.connections().Serve(fd, bytes, std::move(peer));
  }();
  if (!id.ok()) throw std::runtime_error(id.error().message);
  return id.value();
}

// Index of the place, and kind and descriptor or id of its memory.
using Place = std::tuple<std::size_t, std::string, int>;

std::optional<Place> ReserveConnection(Engine& self) {
  const auto place = [&] {
    nb::gil_scoped_release release;
    return self.kept_connections().Reserve();
  }();
  if (!place) return std::nullopt;
  return Place{place->index, NameOf(place->memory.kind), place->memory.number};
}

std::uint64_t ServeKept(Engine& self, std::size_t index, int fd, const nb::bytes& initial,
                        const std::string& peer) {
  const std::span bytes(reinterpret_cast<const std::byte*>(initial.c_str()), initial.size());
  auto id = [&] {
    nb::gil_scoped_release release;
    return self.kept_connections().Begin(index, fd, bytes, peer);
  }();
  if (!id.ok()) throw std::runtime_error(id.error().message);
  return id.value();
}

std::uint64_t AdoptConnection(Engine& self, std::size_t index, const std::string& kind, int number,
                              int fd) {
  auto id = [&] {
    nb::gil_scoped_release release;
    return self.kept_connections().Adopt(index, {KindOf(kind), number}, fd);
  }();
  if (!id.ok()) throw std::runtime_error(id.error().message);
  return id.value();
}

void MoveShard(Engine& self, std::uint64_t shard, const std::string& source,
               const std::string& target) {
  const Outcome begun = self.cluster().MoveShard(shard, source, target);
  if (!begun.ok()) throw std::runtime_error(begun.error().message);
}

void SetPlacement(Engine& self, std::optional<std::size_t> replicas,
                  const std::optional<std::string>& spread) {
  const Outcome done = self.cluster().SetPlacement(replicas, spread);
  if (!done.ok()) throw nb::value_error(done.error().message.c_str());
}

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
  using Replica = remote::Cluster::ReplicaInfo;
  nb::class_<Replica>(m, "Replica")
      .def_ro("address", &Replica::address)
      .def_ro("state", &Replica::state);
  using Shard = remote::Cluster::ShardInfo;
  nb::class_<Shard>(m, "Shard").def_ro("shard", &Shard::shard).def_ro("replicas", &Shard::replicas);
  using Placement = remote::PlacementInfo;
  nb::class_<Placement>(m, "Placement")
      .def_ro("replicas", &Placement::replicas)
      .def_ro("spread", &Placement::spread)
      .def_ro("domains", &Placement::domains)
      .def_ro("debt_shards", &Placement::debt)
      .def_ro("lost_shards", &Placement::lost)
      .def_ro("crowded_shards", &Placement::crowded)
      .def_ro("copies", &Placement::copies)
      .def_ro("repaired_objects", &Placement::repaired_objects)
      .def_ro("failed_repairs", &Placement::failed_repairs)
      .def_ro("missing_pages", &Placement::missing_pages);
  using Server = remote::Cluster::ServerInfo;
  nb::class_<Server>(m, "MemoryServer")
      .def_ro("address", &Server::address)
      .def_ro("failure_domain", &Server::failure_domain)
      .def_ro("labels", &Server::labels)
      .def_prop_ro("state", [](const Server& it) { return remote::NameOf(it.state); })
      .def_prop_ro("connected", [](const Server& it) { return it.connected(); })
      .def_ro("capacity_bytes", &Server::capacity_bytes)
      .def_ro("used_bytes", &Server::used_bytes)
      .def_ro("at_quota", &Server::at_quota)
      .def_ro("epoch", &Server::epoch)
      .def_ro("reconnects", &Server::reconnects)
      .def_ro("last_error", &Server::last_error)
      .def_ro("disconnected_ms", &Server::disconnected_ms)
      .def_ro("shards", &Server::shards)
      .def_ro("last_shards", &Server::last_shards)
      .def_ro("uuid", &Server::uuid)
      .def_ro("owner_name", &Server::owner_name)
      .def_ro("owner_address", &Server::owner_address)
      .def_ro("lost_shards", &Server::lost_shards)
      .def_ro("unclean_restarts", &Server::unclean_restarts)
      .def_ro("hedged_fetches", &Server::hedged_fetches)
      .def_ro("fetch_p99_us", &Server::fetch_p99_us);
}

void BindKeptConnections(nb::class_<Engine>& engine) {
  using namespace nb::literals;
  engine
      .def("reserve_connection", &ReserveConnection,
           "A place for a connection that outlives the process: its index, and kind and number of "
           "its memory, which is the engine's. None: there is no place.")
      .def("serve_kept", &ServeKept, "index"_a, "fd"_a, "initial"_a, "peer"_a,
           "As serve(), in a place that was reserved.")
      .def("adopt_connection", &AdoptConnection, "index"_a, "kind"_a, "number"_a, "fd"_a,
           "Goes on with a connection of a process that has died, in the place of that index. "
           "Always takes over both descriptors. RuntimeError if it has not begun, or has ended.")
      .def(
          "ended_connections", [](Engine& self) { return self.kept_connections().TakeEnded(); },
          nb::call_guard<nb::gil_scoped_release>(),
          "Places whose connection has ended since the last call, and that have no other one.");
}

}  // namespace

void BindHostEngine(nb::module_& m) {
  using namespace nb::literals;
  using NoGil = nb::call_guard<nb::gil_scoped_release>;
  BindRecords(m);
  m.def("enter_reclaim_path", &EnterReclaimPath,
        "Prepares this process for the reclaim path. Call it before any thread starts.");
  nb::class_<Engine> engine(m, "HostEngine",
                            "A host's data path: NBD connections, the local tier, memory servers.");
  BindHostTier(m, engine);
  BindHostAttribution(m, engine);
  BindKeptConnections(engine);
  engine
      .def(nb::new_(&CreateEngine), nb::kw_only(), "state"_a, "accept_threshold_percent"_a,
           "store_wait_ms"_a, "fetch_wait_ms"_a, "servers"_a, "host_id"_a, "device"_a,
           "take_over"_a, "replicas"_a, "spread"_a, "repair_after_ms"_a, "rebalance_every_ms"_a,
           "rings"_a,
           "`rings`: io_urings of the supervisor, each with its io_uring_params. Starts the "
           "engine's threads. RuntimeError if a resource is missing.")
      .def_prop_ro(
          "state", [](const Engine& self) { return self.state(); }, "What has the pages.")
      .def("serve", &Serve, "fd"_a, "initial"_a, "peer"_a,
           "Serves a stream socket after its NBD handshake; always takes over the descriptor. "
           "`initial`: bytes that the client sent after the handshake. Returns the id.")
      .def(
          "connections", [](Engine& self) { return self.connections().List(); }, NoGil(),
          "Connections being served.")
      .def(
          "close_connection",
          [](Engine& self, std::uint64_t id) { return self.connections().Close(id); }, NoGil(),
          "id"_a, "Ends a connection; False if the id is unknown.")
      .def(
          "wait_connection",
          [](Engine& self, std::uint64_t id, std::uint64_t timeout_ms) {
            return self.connections().Wait(id, milliseconds(timeout_ms));
          },
          NoGil(), "id"_a, "timeout_ms"_a, "Waits until a connection has ended; False on timeout.")
      .def(
          "servers", [](Engine& self) { return self.cluster().Servers(); }, NoGil(),
          "Memory servers, as seen by this host.")
      .def(
          "list_servers",
          [](Engine& self, const std::vector<std::string>& addresses) {
            self.cluster().ListServers(addresses);
          },
          NoGil(), "addresses"_a,
          "Sets the addresses of memory servers beside those of the configuration, up to 256 in "
          "all. A server that is no longer listed stays, unless it was never used there.")
      .def(
          "placement", [](Engine& self) { return self.cluster().Placement(); }, NoGil(),
          "How the volume's shards are placed.")
      .def(
          "shards",
          [](Engine& self, std::uint64_t first, std::uint64_t count) {
            return self.cluster().PlacedShards(first, count);
          },
          NoGil(), "first"_a, "count"_a,
          "Those of the `count` shards from `first` that are placed.")
      .def("move_shard", &MoveShard, "shard"_a, "source"_a, "target"_a,
           "Begins to copy a replica of a shard from one server to another, which takes its place. "
           "By their addresses. RuntimeError.")
      .def("set_placement", &SetPlacement, "replicas"_a, "spread"_a,
           "Changes the number of replicas of each page, and the label in which they differ; None: "
           "as it is. Copies follow. ValueError.")
      .def("stop", &Engine::Stop, NoGil(),
           "Ends connections, sessions and threads. Afterwards only stats() may be called. "
           "Idempotent.");
}

}  // namespace farswap::bind
