// Replicas that left their sets, until their members have dropped the bytes.
//
// A replica is dropped once its member is present and its planner allows it. A replica that joins
// its set again is forgotten here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "placement/action.h"

namespace farswap::placement {

class Drops {
 public:
  void Add(MemberIndex member, ShardIndex shard, std::uint64_t job);
  void Forget(MemberIndex member, ShardIndex shard) { Erase({member, shard}); }
  /// Its store is gone.
  void ForgetAll(MemberIndex member);
  /// A member is back or out of room, or a shard has one more current replica: more may be due.
  void MayBeDue() { issue_ = true; }

  /// Of an action of another job nothing. After a failure no drop is issued before `retry_at`.
  void Finished(const Action& action, ActionResult result, Time retry_at);
  /// Appends those that are due, few at a time.
  void Issue(Time now, const std::function<bool(MemberIndex)>& present,
             const std::function<bool(MemberIndex, ShardIndex)>& allowed,
             std::vector<Action>* actions);
  /// When Issue() next has something to do though no event comes.
  Time NextIssue() const { return issue_ ? issue_at_ : Time::max(); }

 private:
  using Replica = std::pair<MemberIndex, ShardIndex>;
  struct Drop {
    std::uint64_t job;
    bool under_way = false;
  };

  void Erase(Replica replica);

  std::map<Replica, Drop> drops_;
  std::size_t under_way_ = 0;
  bool issue_ = false;
  Time issue_at_{};
};

}  // namespace farswap::placement
