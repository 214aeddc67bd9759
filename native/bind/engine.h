// A host's data path as one object: NBD connections -> tier -> memory servers, and the BPF programs
// that tell the tier whose pages it has.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "bpf/slot_attribution.h"
#include "nbd/connection_set.h"
#include "remote/cluster.h"
#include "tier/tier.h"

namespace farswap::bind {

struct EngineConfig {
  tier::TierConfig tier;
  remote::ClusterConfig cluster;  // incarnation and slots are filled in by Create()
};

/// How pages are attributed to cgroups now.
struct AttributionState {
  std::string source;     // "bpf", "label" or "root"
  std::string free_hook;  // the kernel's function by which frees are seen; "" when they are not
  std::string problem;    // of the last attempt by BPF; "" when there was none
  bpf::AttributionCounters counters;
};

/// Owns the three layers and the order in which they start and stop.
class Engine {
 public:
  static Result<std::unique_ptr<Engine>> Create(EngineConfig config);
  ~Engine() { Stop(); }

  /// First the stores and fetches under way are failed, then their connections end. Idempotent.
  void Stop();

  /// Attributes what is swapped out to a device from now on by BPF, instead of any other device.
  /// What cannot be had is a problem of the state, and pages are attributed as well as they can be.
  AttributionState Attribute(std::uint32_t device_major, std::uint32_t device_minor,
                             const std::string& pin_directory, bool free_hook);
  void StopAttribution();
  AttributionState attribution() const;
  void SetLabel(tier::CgroupId id);

  tier::Tier& tier() { return *tier_; }
  remote::Cluster& cluster() { return *cluster_; }
  nbd::ConnectionSet& connections() { return *connections_; }
  const std::array<std::byte, 16>& incarnation() const { return incarnation_; }

 private:
  Engine() = default;
  void StopAttributionLocked();
  AttributionState StateLocked() const;

  std::array<std::byte, 16> incarnation_{};
  std::unique_ptr<remote::Cluster> cluster_;
  std::unique_ptr<tier::Tier> tier_;
  std::unique_ptr<nbd::ConnectionSet> connections_;

  mutable std::mutex attribution_mutex_;  // guards what follows
  std::unique_ptr<bpf::SlotAttribution> attribution_;
  std::string attribution_problem_;
  tier::CgroupId label_ = tier::kUnknownCgroup;
};

}  // namespace farswap::bind
