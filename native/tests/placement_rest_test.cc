// What `farswap-sim --check` found: fleets that did not come to rest after faults.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "placement/planner.h"

namespace farswap::placement {
namespace {

using enum ReplicaState;
using Kind = Action::Kind;
using namespace std::chrono_literals;

class RestTest : public ::testing::Test {
 protected:
  // Members in domains of their own, half full, in one copyset each.
  void Make(const PlannerConfig& config, std::size_t count) {
    planner_ = std::make_unique<Planner>(config);
    std::vector<Peer> peers;
    for (MemberIndex index = 0; index < count; ++index) {
      reports_.push_back(
          {.id = HashOf(index, 9), .domain = index, .capacity_bytes = 1000, .used_bytes = 500});
      planner_->Report(index, reports_.back());
      peers.push_back({.member = index, .id = HashOf(index, 9), .domain = index});
    }
    planner_->UseCopysets(MakeCopysets(peers, config.replicas, 4));
  }

  void Report(MemberIndex index, auto change) {
    change(&reports_[index]);
    planner_->Report(index, reports_[index]);
  }

  // Does every step at once; returns them.
  std::vector<Action> Work() {
    std::vector<Action> all;
    std::vector<Action> actions;
    for (planner_->Tick(now_, &actions); !actions.empty(); planner_->Tick(now_, &actions)) {
      for (const Action& action : actions) planner_->Finished(action, ActionResult::kDone, now_);
      all.insert(all.end(), actions.begin(), actions.end());
      actions.clear();
    }
    return all;
  }

  static bool Drops(const std::vector<Action>& actions, MemberIndex member) {
    return std::ranges::any_of(actions, [member](const Action& action) {
      return action.kind == Kind::kDrop && action.member == member;
    });
  }

  std::unique_ptr<Planner> planner_;
  std::vector<Member> reports_;
  Time now_ = 1h;
};

TEST_F(RestTest, AMemberThatLeavesGivesTheLastCopyThatItMissedWritesOf) {
  Make({.shards = 1, .replicas = 2, .rebalance_every = 1000h}, 4);
  const ReplicaSet set = planner_->Place(0);
  const MemberIndex lagging = set.At(0).member;
  planner_->MemberAway(lagging, now_);
  Report(lagging, [](Member* member) { member->leaving = true; });
  planner_->MemberGone(set.At(1).member);
  planner_->MemberBack(lagging, true);
  Work();
  EXPECT_FALSE(planner_->SetOf(0).StateOf(lagging));
  EXPECT_EQ(planner_->SetOf(0).Count(kCurrent), 2u);
}

TEST_F(RestTest, AFullMemberGivesTheLastCopyThatItMissedWritesOf) {
  Make({.shards = 1, .replicas = 2, .rebalance_every = 1000h}, 2);
  planner_->Place(0);
  planner_->MemberAway(0, now_);
  Report(0, [](Member* member) { member->full = true; });
  planner_->MemberGone(1);
  planner_->MemberBack(0, true);
  Work();
  EXPECT_EQ(planner_->SetOf(0).StateOf(0), kCurrent);
}

// Five members full of each other's former replicas waited for each other to have a full set.
TEST_F(RestTest, AMemberWithoutRoomForCopiesDropsWhatIsCurrentElsewhere) {
  Make({.shards = 1, .replicas = 2, .repair_after = 1min, .rebalance_every = 1000h}, 4);
  const ReplicaSet set = planner_->Place(0);
  const MemberIndex former = set.At(0).member;
  planner_->MemberAway(former, now_);
  now_ += 1min;
  Work();
  const ReplicaSet repaired = planner_->SetOf(0);
  ASSERT_FALSE(repaired.StateOf(former));
  for (MemberIndex member = 0; member < 4; ++member) {
    if (member != former) Report(member, [](Member* each) { each->full = true; });
  }
  planner_->MemberAway(repaired.At(0).member, now_);
  ASSERT_EQ(planner_->debt(), 1u);

  Report(former, [](Member* member) { member->full = member->reserve = true; });
  planner_->MemberBack(former, true);
  std::vector<Action> actions;
  planner_->Tick(now_, &actions);
  EXPECT_FALSE(Drops(actions, former)) << "it has room for a copy";
  Report(former, [](Member* member) { member->reserve = false; });
  EXPECT_TRUE(Drops(Work(), former));
}

TEST_F(RestTest, AMemberWithoutRoomKeepsWhatIsCurrentNowhereInReach) {
  Make({.shards = 1, .replicas = 2, .repair_after = 1min, .rebalance_every = 1000h}, 3);
  const ReplicaSet set = planner_->Place(0);
  const MemberIndex former = set.At(0).member;
  planner_->MemberAway(former, now_);
  now_ += 1min;
  Work();
  for (const Replica& replica : planner_->SetOf(0).All()) {
    if (replica.state != kNone) planner_->MemberAway(replica.member, now_);
  }
  planner_->MemberBack(former, true);
  Report(former, [](Member* member) { member->full = true; });
  EXPECT_FALSE(Drops(Work(), former));
}

// Two members that hold a few shards each gave them to each other without end.
TEST_F(RestTest, AMoveThatTurnsTheImbalanceRoundIsNotMade) {
  Make({.shards = 8, .replicas = 1, .rebalance_every = 10min, .shard_bytes = 100}, 2);
  for (ShardIndex shard = 0; shard < 8; ++shard) planner_->Place(shard);
  Report(0, [](Member* member) { member->used_bytes = 600; });
  Report(1, [](Member* member) { member->used_bytes = 300; });
  now_ += 10min;
  EXPECT_TRUE(Work().empty()) << "two shards at a time would make 400 and 500 of them";
  Report(1, [](Member* member) { member->used_bytes = 150; });
  now_ += 10min;
  EXPECT_FALSE(Work().empty());
}

// A shard is no larger than what the member holds of each on average.
TEST_F(RestTest, SmallMembersOfSmallShardsAreBalanced) {
  Make({.shards = 40, .replicas = 1, .rebalance_every = 10min, .shard_bytes = 1'000'000}, 2);
  for (ShardIndex shard = 0; shard < 40; ++shard) planner_->Place(shard);
  Report(0, [](Member* member) { member->used_bytes = 600; });
  Report(1, [](Member* member) { member->used_bytes = 300; });
  now_ += 10min;
  EXPECT_FALSE(Work().empty());
}

}  // namespace
}  // namespace farswap::placement
