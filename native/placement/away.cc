// Planner: what the map has on members that are away.
#include "placement/planner.h"

namespace farswap::placement {

std::vector<AwayMember> Planner::Away() const {
  std::vector<AwayMember> away;
  for (std::size_t index = 0; index < members_.size(); ++index) {
    const State& member = members_[index];
    if (!member.away) continue;
    away.push_back({.member = static_cast<MemberIndex>(index), .shards = member.replicas});
  }
  if (away.empty()) return away;
  for (ShardIndex shard = 0; shard < config_.shards; ++shard) {
    const ReplicaSet set = SetOf(shard);
    if (set.Count(ReplicaState::kCurrent) != 1) continue;
    for (AwayMember& member : away) {
      if (set.StateOf(member.member) == ReplicaState::kCurrent) ++member.last_shards;
    }
  }
  return away;
}

}  // namespace farswap::placement
