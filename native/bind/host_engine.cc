#include "bind/host_engine.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/reclaim_path.h"
#include "bind/engine.h"

namespace nb = nanobind;

namespace farswap::bind {
namespace {

using std::chrono::milliseconds;

struct SlotExplanation {
  std::uint64_t slot;
  tier::Tier::Explanation tier;
  std::string server;
};

/// What Python holds. Every method that may wait or take a lock of the data path gives up the GIL.
class HostEngine {
 public:
  HostEngine(std::uint64_t slots, std::uint64_t pool_bytes_max,
             std::uint32_t accept_threshold_percent, std::uint64_t store_wait_ms,
             std::uint64_t fetch_wait_ms, std::vector<std::string> servers, std::string host_id,
             std::string device) {
    EngineConfig config;
    config.tier.slots = slots;
    config.tier.pool_bytes_max = pool_bytes_max;
    config.tier.accept_threshold_percent = accept_threshold_percent;
    config.tier.store_wait = milliseconds(store_wait_ms);
    config.cluster.servers = std::move(servers);
    config.cluster.host_id = std::move(host_id);
    config.cluster.device = std::move(device);
    config.cluster.fetch_wait = milliseconds(fetch_wait_ms);
    auto created = [&] {
      nb::gil_scoped_release release;
      return Engine::Create(std::move(config));
    }();
    if (!created.ok()) throw std::runtime_error(created.error().message);
    engine_ = std::move(created.value());
  }

  nb::bytes Incarnation() const {
    return nb::bytes(engine_->incarnation().data(), engine_->incarnation().size());
  }

  std::uint64_t Serve(int fd, const nb::bytes& initial, std::string peer) {
    const std::span bytes(reinterpret_cast<const std::byte*>(initial.c_str()), initial.size());
    auto id = [&] {
      nb::gil_scoped_release release;
      return engine_->connections().Serve(fd, bytes, std::move(peer));
    }();
    if (!id.ok()) throw std::runtime_error(id.error().message);
    return id.value();
  }

  std::vector<nbd::ConnectionSet::Info> Connections() { return engine_->connections().List(); }
  bool CloseConnection(std::uint64_t id) { return engine_->connections().Close(id); }
  bool WaitConnection(std::uint64_t id, std::uint64_t timeout_ms) {
    return engine_->connections().Wait(id, milliseconds(timeout_ms));
  }
  std::vector<remote::Cluster::ServerInfo> Servers() { return engine_->cluster().Servers(); }
  bool StartWriteback(std::uint64_t bytes) { return engine_->tier().StartManualWriteback(bytes); }
  void CancelWriteback() { engine_->tier().CancelManualWriteback(); }
  tier::Tier::ManualWriteback WritebackProgress() {
    return engine_->tier().ManualWritebackProgress();
  }
  void Stop() { engine_->Stop(); }

  nb::dict Stats() const {
    const tier::TierStats stats = engine_->tier().Stats();
    nb::dict out;
    out["pool_limit_bytes"] = stats.pool_limit_bytes;
    out["pool_used_bytes"] = stats.pool_used_bytes;
    out["pool_entry_bytes"] = stats.pool_entry_bytes;
    out["pool_payload_bytes"] = stats.pool_payload_bytes;
    out["metadata_bytes"] = stats.metadata_bytes;
    out["pages_same_filled"] = stats.pages_same_filled;
    out["pages_local"] = stats.pages_local;
    out["pages_writing"] = stats.pages_writing;
    out["pages_remote"] = stats.pages_remote;
    out["pages_raw"] = stats.pages_raw;
    out["shrinking"] = static_cast<int>(stats.shrinking);
    for (std::size_t i = 0; i < tier::kCounterCount; ++i) {
      out[tier::CounterName(static_cast<tier::Counter>(i))] = stats.counters[i];
    }
    return out;
  }

  SlotExplanation Explain(std::uint64_t slot) {
    if (slot >= engine_->tier().slots()) {
      throw nb::index_error(("slot " + std::to_string(slot) + " is beyond the device's " +
                             std::to_string(engine_->tier().slots()) + " slots")
                                .c_str());
    }
    nb::gil_scoped_release release;
    const auto index = static_cast<tier::SlotIndex>(slot);
    return {slot, engine_->tier().Explain(index), engine_->cluster().ServerOf(index)};
  }

 private:
  std::unique_ptr<Engine> engine_;
};

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
      .def_ro("connected", &Server::connected)
      .def_ro("capacity_bytes", &Server::capacity_bytes)
      .def_ro("used_bytes", &Server::used_bytes)
      .def_ro("epoch", &Server::epoch)
      .def_ro("reconnects", &Server::reconnects)
      .def_ro("last_error", &Server::last_error)
      .def_ro("disconnected_ms", &Server::disconnected_ms)
      .def_ro("shards", &Server::shards);
  using Progress = tier::Tier::ManualWriteback;
  nb::class_<Progress>(m, "WritebackProgress")
      .def_ro("target_bytes", &Progress::target_bytes)
      .def_ro("written_bytes", &Progress::written_bytes)
      .def_ro("sent_bytes", &Progress::sent_bytes)
      .def_ro("finished", &Progress::finished)
      .def_prop_ro("stopped_because",
                   [](const Progress& self) { return std::string(self.stopped_because); });
  nb::class_<SlotExplanation>(m, "SlotExplanation")
      .def_ro("slot", &SlotExplanation::slot)
      .def_prop_ro("state",
                   [](const SlotExplanation& self) { return std::string(self.tier.state); })
      .def_prop_ro("version", [](const SlotExplanation& self) { return self.tier.version; })
      .def_prop_ro("codec",
                   [](const SlotExplanation& self) { return static_cast<int>(self.tier.codec); })
      .def_prop_ro("size_bytes", [](const SlotExplanation& self) { return self.tier.size_bytes; })
      .def_prop_ro("stored_unix_s",
                   [](const SlotExplanation& self) { return self.tier.stored_unix_s; })
      .def_prop_ro("fill", [](const SlotExplanation& self) { return self.tier.fill; })
      .def_prop_ro("referenced", [](const SlotExplanation& self) { return self.tier.referenced; })
      .def_prop_ro("verified", [](const SlotExplanation& self) { return self.tier.verified; })
      .def_prop_ro("problem", [](const SlotExplanation& self) { return self.tier.problem; })
      .def_ro("server", &SlotExplanation::server);
}

}  // namespace

void BindHostEngine(nb::module_& m) {
  using namespace nb::literals;
  using NoGil = nb::call_guard<nb::gil_scoped_release>;
  BindRecords(m);
  m.def("enter_reclaim_path", &EnterReclaimPath,
        "Makes this process fit for the kernel's reclaim path. Call it before any thread starts.");
  nb::class_<HostEngine>(m, "HostEngine",
                         "A host's data path: NBD connections, the local tier, memory servers.")
      .def(nb::init<std::uint64_t, std::uint64_t, std::uint32_t, std::uint64_t, std::uint64_t,
                    std::vector<std::string>, std::string, std::string>(),
           nb::kw_only(), "slots"_a, "pool_bytes_max"_a, "accept_threshold_percent"_a,
           "store_wait_ms"_a, "fetch_wait_ms"_a, "servers"_a, "host_id"_a, "device"_a,
           "Starts the engine's threads. RuntimeError says what cannot be had.")
      .def_prop_ro("incarnation", &HostEngine::Incarnation,
                   "16 random bytes that live and die with the slot table.")
      .def("serve", &HostEngine::Serve, "fd"_a, "initial"_a, "peer"_a,
           "Serves a stream socket whose NBD handshake is done; takes the descriptor over in any "
           "case. `initial`: bytes that the client sent behind the handshake. Returns the id.")
      .def("connections", &HostEngine::Connections, NoGil(), "The connections being served.")
      .def("close_connection", &HostEngine::CloseConnection, NoGil(), "id"_a,
           "Ends a connection; False if there is none of this id.")
      .def("wait_connection", &HostEngine::WaitConnection, NoGil(), "id"_a, "timeout_ms"_a,
           "Waits until a connection has ended; False at the timeout.")
      .def("stats", &HostEngine::Stats, nb::sig("def stats(self) -> dict[str, int]"),
           "Gauges and counters of the tier by name.")
      .def("servers", &HostEngine::Servers, NoGil(), "The memory servers as seen from here.")
      .def("explain", &HostEngine::Explain, "slot"_a,
           "Where a slot's page is; reads it, also from a server, to verify it. IndexError.")
      .def("start_writeback", &HostEngine::StartWriteback, NoGil(), "bytes"_a,
           "Starts to write back the coldest pages, `bytes` before compression. False: a job runs.")
      .def("cancel_writeback", &HostEngine::CancelWriteback, NoGil())
      .def("writeback_progress", &HostEngine::WritebackProgress, NoGil())
      .def("stop", &HostEngine::Stop, NoGil(),
           "Ends connections, sessions and threads. The engine can only be asked for its stats "
           "afterwards. Idempotent.");
}

}  // namespace farswap::bind
