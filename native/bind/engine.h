// A host's data path as one object: NBD connections -> tier -> memory servers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "nbd/connection_set.h"
#include "remote/cluster.h"
#include "tier/tier.h"

namespace farswap::bind {

struct EngineConfig {
  tier::TierConfig tier;
  remote::ClusterConfig cluster;  // incarnation and slots are filled in by Create()
};

/// Owns the three layers and the order in which they start and stop.
class Engine {
 public:
  static Result<std::unique_ptr<Engine>> Create(EngineConfig config);
  ~Engine() { Stop(); }

  /// First the stores and fetches under way are failed, then their connections end. Idempotent.
  void Stop();

  tier::Tier& tier() { return *tier_; }
  remote::Cluster& cluster() { return *cluster_; }
  nbd::ConnectionSet& connections() { return *connections_; }
  const std::array<std::byte, 16>& incarnation() const { return incarnation_; }

 private:
  Engine() = default;

  std::array<std::byte, 16> incarnation_{};
  std::unique_ptr<remote::Cluster> cluster_;
  std::unique_ptr<tier::Tier> tier_;
  std::unique_ptr<nbd::ConnectionSet> connections_;
};

}  // namespace farswap::bind
