// A planner with members in domains of their own, and a caller that does its actions at once.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <vector>

#include "placement/planner.h"

namespace farswap::placement {

using namespace std::chrono_literals;

class PlannerTest : public ::testing::Test {
 protected:
  // Members 0 to count-1, each in a domain of its own, a tenth of each used.
  void Make(std::size_t replicas, std::size_t count, std::size_t shards = 8) {
    planner_ = std::make_unique<Planner>(PlannerConfig{.shards = shards,
                                                       .replicas = replicas,
                                                       .jobs_max = 2,
                                                       .rebalance_every = 1000h,
                                                       .seed = 1});
    std::vector<Peer> peers;
    for (std::size_t i = 0; i < count; ++i) {
      const auto index = static_cast<MemberIndex>(i);
      reports_.push_back(
          {.id = HashOf(i, 9), .domain = index, .capacity_bytes = 1000, .used_bytes = 100});
      planner_->Report(index, reports_.back());
      peers.push_back({.member = index, .id = HashOf(i, 9), .domain = index});
    }
    planner_->UseCopysets(MakeCopysets(peers, replicas, 4));
  }

  void Report(MemberIndex index, auto change) {
    change(&reports_[index]);
    planner_->Report(index, reports_[index]);
  }

  std::vector<Action> Tick() {
    std::vector<Action> actions;
    planner_->Tick(now_, &actions);
    return actions;
  }

  void Finish(const Action& action, ActionResult result = ActionResult::kDone) {
    planner_->Finished(action, result, now_, 5s);
  }

  // Does all that there is to do, each step at once; returns what was done.
  std::vector<Action> Work() {
    std::vector<Action> all;
    for (auto actions = Tick(); !actions.empty(); actions = Tick()) {
      for (const Action& action : actions) {
        all.push_back(action);
        Finish(action);
      }
    }
    return all;
  }

  static std::vector<MemberIndex> In(const ReplicaSet& set, ReplicaState state) {
    std::vector<MemberIndex> members;
    for (const Replica& replica : set.All()) {
      if (replica.state == state) members.push_back(replica.member);
    }
    return members;
  }

  // A shard's first member and the others.
  MemberIndex First(ShardIndex shard) { return planner_->SetOf(shard).At(0).member; }

  std::unique_ptr<Planner> planner_;
  std::vector<Member> reports_;
  Time now_ = 1h;
};

}  // namespace farswap::placement
