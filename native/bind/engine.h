// A host's data path as one object: NBD connections -> tier -> memory servers, and the BPF programs
// that attribute pages to cgroups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "bpf/slot_attribution.h"
#include "nbd/connection_set.h"
#include "nbd/kept_connections.h"
#include "remote/cluster.h"
#include "tier/state.h"
#include "tier/tier.h"

namespace farswap::bind {

struct EngineConfig {
  tier::TierConfig tier;
  remote::ClusterConfig cluster;
  /// For connections that outlive the process.
  std::vector<nbd::KeptConnections::Ring> rings{};
};

/// The source of attribution in use.
struct AttributionState {
  std::string source;     // "bpf", "label" or "root"
  std::string free_hook;  // the hooked kernel function that frees slots; "" if none
  std::string problem;    // of the last attempt to use BPF; "" if none
  bpf::AttributionCounters counters;
};

/// Owns the three layers; starts and stops them in order.
class Engine {
 public:
  /// Slots and bytes of the pool are those of `state`. If that is adopted, all threads of the
  /// process before must have ended.
  static Result<std::unique_ptr<Engine>> Create(EngineConfig config,
                                                const std::shared_ptr<tier::State>& state);
  ~Engine() { Stop(); }

  /// Fails stores and fetches in progress, then ends connections. Idempotent.
  void Stop();

  /// Attributes pages swapped out to this device by BPF from now on, in place of any earlier
  /// device. If the kernel refuses, the state has the problem, and the next best source is used.
  AttributionState Attribute(std::uint32_t device_major, std::uint32_t device_minor,
                             const std::string& pin_directory, bool free_hook);
  void StopAttribution();
  AttributionState attribution() const;
  void SetLabel(tier::CgroupId id);

  const std::shared_ptr<tier::State>& state() const { return state_; }
  tier::Tier& tier() { return *tier_; }
  remote::Cluster& cluster() { return *cluster_; }
  nbd::ConnectionSet& connections() { return *connections_; }
  nbd::KeptConnections& kept_connections() { return *kept_connections_; }

 private:
  Engine() = default;
  void StopAttributionLocked();
  AttributionState StateLocked() const;

  std::shared_ptr<tier::State> state_;
  std::unique_ptr<remote::Cluster> cluster_;
  std::unique_ptr<tier::Tier> tier_;
  std::unique_ptr<nbd::ConnectionSet> connections_;
  std::unique_ptr<nbd::KeptConnections> kept_connections_;

  mutable std::mutex attribution_mutex_;  // guards what follows
  std::unique_ptr<bpf::SlotAttribution> attribution_;
  std::string attribution_problem_;
  tier::CgroupId label_ = tier::kUnknownCgroup;
};

}  // namespace farswap::bind
