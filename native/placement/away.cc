// Planner: members that go away and come back, and replicas that miss something.
#include <algorithm>
#include <utility>

#include "placement/planner.h"

namespace farswap::placement {

using enum ReplicaState;

void Planner::MemberAway(MemberIndex index, Time now) {
  State& member = StateOf(index);
  if (member.away) return;
  member.away = true;
  member.away_since = now;
  if (member.replicas == 0) return;
  for (ShardIndex shard = 0; shard < config_.shards; ++shard) {
    const ReplicaSet set = SetOf(shard);
    if (set.StateOf(index) == kCurrent && set.Count(kCurrent) > 1) {
      Change(shard, set.WithAway(index));
      Consider(shard);
    } else if (set.StateOf(index) == kJoining) {
      Miss(shard, index);
    }
  }
}

void Planner::MemberBack(MemberIndex index, bool intact) {
  State& member = StateOf(index);
  member.away = member.replaced = false;
  scan_wanted_ = true;
  drops_.MayBeDue();
  for (ShardIndex shard = 0; shard < config_.shards && member.replicas > 0; ++shard) {
    const ReplicaSet set = SetOf(shard);
    if (!set.StateOf(index)) continue;
    if (!intact) {
      Miss(shard, index);
    } else if (set.StateOf(index) == kStale && set.untouched()) {
      Resume(shard, index);
    }
  }
}

// Of an untouched set. A last current replica whose member is away is the last one no longer.
void Planner::Resume(ShardIndex shard, MemberIndex stale) {
  ReplicaSet set = SetOf(shard).With(stale, kCurrent);
  for (const Replica& replica : SetOf(shard).All()) {
    if (replica.state != kCurrent || !members_[replica.member].away) continue;
    set = set.WithAway(replica.member);
  }
  Change(shard, set);
}

void Planner::MemberGone(MemberIndex index) {
  State& member = StateOf(index);
  member = State{.reported = {.domain = member.reported.domain}, .replicas = member.replicas};
  scan_wanted_ = true;
  drops_.ForgetAll(index);
  for (ShardIndex shard = 0; shard < config_.shards && member.replicas > 0; ++shard) {
    const auto was = SetOf(shard).StateOf(index);
    if (!was) continue;
    const auto job = jobs_.find(shard);
    if (job != jobs_.end() && job->second.member == index) Abandon(shard);
    if (SetOf(shard).StateOf(index)) Change(shard, SetOf(shard).With(index, kNone));
    const ReplicaSet left = SetOf(shard);
    if (was == kCurrent && left.Count(kCurrent) == 0) {
      const auto replicas = left.All();
      const auto stale = std::ranges::find(replicas, kStale, &Replica::state);
      if (left.untouched()) {
        Resume(shard, stale->member);
        continue;
      }
      ++lost_;  // what stale and joining replicas lack
    }
    // The joining one has what was written since it joined; there is nothing left to copy from.
    if (left.Count(kCurrent) == 0 && jobs_.contains(shard)) SkipToCompare(shard);
  }
}

void Planner::ReplicaMissed(ShardIndex shard, MemberIndex member, Time now) {
  State& state = members_[member];
  if (SetOf(shard).StateOf(member) == kJoining && !state.rests_until) {
    state.rest = std::min(std::max(2 * state.rest, config_.retry_after), config_.repair_after);
    state.rests_until = now + state.rest;
  }
  Miss(shard, member);
}

void Planner::Miss(ShardIndex shard, MemberIndex member) {
  const auto job = jobs_.find(shard);
  if (job != jobs_.end() && job->second.member == member) Abandon(shard);
  const ReplicaSet set = SetOf(shard);
  if (set.StateOf(member) == kStale && set.untouched()) Change(shard, set.Touched());
  if (set.StateOf(member) != kCurrent || set.Count(kCurrent) == 1) return;
  Change(shard, set.With(member, kStale));
  Consider(shard);
}

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
    if (set.Count(kCurrent) != 1) continue;
    for (AwayMember& member : away) {
      if (set.StateOf(member.member) == kCurrent) ++member.last_shards;
    }
  }
  return away;
}

}  // namespace farswap::placement
