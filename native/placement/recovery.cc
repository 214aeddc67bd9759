// Planner: the map of a process that died.
#include <algorithm>

#include "placement/planner.h"

namespace farswap::placement {

using enum ReplicaState;

std::set<MemberIndex> Planner::Named() const {
  std::set<MemberIndex> named;
  for (ShardIndex shard = 0; shard < config_.shards; ++shard) {
    for (const Replica& replica : SetOf(shard).All()) {
      if (replica.state != kNone) named.insert(replica.member);
    }
  }
  return named;
}

void Planner::Recover(const std::function<std::uint32_t(MemberIndex)>& domain_of) {
  for (const MemberIndex member : Named()) StateOf(member).reported.domain = domain_of(member);
  for (ShardIndex shard = 0; shard < config_.shards; ++shard) {
    const ReplicaSet set = SetOf(shard);
    Count(set, 1);
    for (const Replica& replica : set.All()) {
      // It has an older copy, or part of one, and gets the rest as one that was away does.
      if (replica.state == kJoining) Change(shard, SetOf(shard).With(replica.member, kStale));
    }
    if (!set.empty() && SetOf(shard).Count(kCurrent) == 0) ++lost_;
  }
  scan_wanted_ = true;
}

void Planner::OnListed(MemberIndex member, std::span<const std::uint64_t> shards) {
  for (const std::uint64_t each : shards) {
    const auto shard = static_cast<ShardIndex>(each);
    if (each < config_.shards && !SetOf(shard).StateOf(member)) Drop(shard, member);
  }
}

// A process may die between a replica that becomes current and the one that leaves for it. The
// others may turn out to be gone, so the choice waits for them.
void Planner::TrimRecovered(ShardIndex shard) {
  const auto replicas = SetOf(shard).All();
  const bool known = std::ranges::all_of(replicas, [this](const Replica& replica) {
    return replica.state != kCurrent || members_[replica.member].present();
  });
  if (known && !jobs_.contains(shard)) Trim(shard);
}

}  // namespace farswap::placement
