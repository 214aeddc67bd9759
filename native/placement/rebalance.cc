// Planner: rebalancing. Shards of the fullest members that have some go to emptier ones.
//
// In a fleet that is balanced this costs a look at each member, at none of the shards.
#include <algorithm>
#include <functional>

#include "placement/planner.h"

namespace farswap::placement {

using enum ReplicaState;

namespace {

constexpr std::size_t kMoveTries = 64;  // shards of a member that are considered for a move

}  // namespace

void Planner::Rebalance() {
  std::vector<MemberIndex> fullest;
  for (std::size_t index = 0; index < members_.size(); ++index) {
    const State& member = members_[index];
    if (member.replicas > 0 && member.present()) fullest.push_back(static_cast<MemberIndex>(index));
  }
  std::ranges::sort(fullest, std::greater{},
                    [this](MemberIndex member) { return members_[member].reported.fullness(); });
  double least = 1.0;
  for (const MemberIndex member : placeable_) {
    const State& state = members_[member];
    if (state.takes_shards()) least = std::min(least, state.reported.fullness());
  }
  // The fullest one may be the only one of its failure domain: it keeps its shards.
  for (const MemberIndex member : fullest) {
    if (members_[member].reported.fullness() - config_.imbalance_max < least) return;
    while (jobs_.size() < config_.jobs_max && MoveOneFrom(member)) continue;
  }
}

bool Planner::MoveOneFrom(MemberIndex fullest) {
  const Member& source = members_[fullest].reported;
  const std::size_t start = Pick(config_.shards);
  std::size_t tries = 0;
  for (std::size_t i = 0; i < config_.shards && tries < kMoveTries; ++i) {
    const auto shard = static_cast<ShardIndex>((start + i) % config_.shards);
    const ReplicaSet set = SetOf(shard);
    if (set.StateOf(fullest) != kCurrent || set.Count(kCurrent) != config_.replicas) continue;
    if (set.Count(kJoining) + set.Count(kStale) > 0) continue;
    ++tries;
    const auto target = Target(set, fullest);
    const ReplicaSet stays = set.With(fullest, kNone);
    const bool crowds = target && SharesDomain(*target, stays) && !SharesDomain(fullest, stays);
    if (!target || crowds) continue;
    const Member& other = members_[*target].reported;
    const std::uint64_t shard_bytes =
        std::min(config_.shard_bytes, source.used_bytes / members_[fullest].replicas);
    const double moving =
        static_cast<double>(config_.jobs_max * shard_bytes) /
        static_cast<double>(std::min(source.capacity_bytes, other.capacity_bytes));
    const double gap = std::max(config_.imbalance_max, 2.0 * moving);
    if (source.fullness() - other.fullness() < gap) return false;
    Join(shard, *target, set.full() ? std::optional(fullest) : std::nullopt, false);
    if (!set.full()) jobs_.at(shard).retires = fullest;
    return true;
  }
  return false;
}

}  // namespace farswap::placement
