// HostEngine for Python: the host's data path. host_engine.cc binds its methods for connections and
// servers, host_tier.cc those for the tier and its cgroups, host_attribution.cc those for
// attribution.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bind/engine.h"

namespace farswap::bind {

namespace nb = nanobind;
using std::chrono::milliseconds;

struct SlotExplanation {
  std::uint64_t slot;
  tier::Explanation tier;
  std::string server;
};

/// Methods that may wait or take a lock of the data path release the GIL.
class HostEngine {
 public:
  HostEngine(std::uint64_t slots, std::uint64_t pool_bytes_max,
             std::uint32_t accept_threshold_percent, std::uint64_t store_wait_ms,
             std::uint64_t fetch_wait_ms, std::vector<std::string> servers, std::string host_id,
             std::string device, bool take_over) {
    EngineConfig config;
    config.tier.slots = slots;
    config.tier.pool_bytes_max = pool_bytes_max;
    config.tier.accept_threshold_percent = accept_threshold_percent;
    config.tier.store_wait = milliseconds(store_wait_ms);
    config.cluster.servers = std::move(servers);
    config.cluster.host_id = std::move(host_id);
    config.cluster.device = std::move(device);
    config.cluster.take_over = take_over;
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
  void Stop() { engine_->Stop(); }

  Engine& engine() { return *engine_; }
  tier::Tier& tier() { return engine_->tier(); }

  SlotExplanation Explain(std::uint64_t slot) {
    if (slot >= engine_->tier().slots()) {
      throw nb::index_error(("slot " + std::to_string(slot) +
                             " is beyond the end of the device: it has " +
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

/// Adds HostEngine, its records and enter_reclaim_path() to the module.
void BindHostEngine(nb::module_& m);

/// Adds the methods for the tier and its cgroups.
void BindHostTier(nb::module_& m, nb::class_<HostEngine>& engine);

/// Adds the methods for attribution.
void BindHostAttribution(nb::module_& m, nb::class_<HostEngine>& engine);

}  // namespace farswap::bind
