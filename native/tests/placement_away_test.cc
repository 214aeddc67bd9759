// Members that answer slowly, or are away: what becomes of their replicas.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "placement/planner.h"
#include "placement_fixture.h"

namespace farswap::placement {
namespace {

using enum ReplicaState;
using Kind = Action::Kind;

class AwayTest : public PlannerTest {
 protected:
  // A shard whose replica on the member misses something.
  MemberIndex PlaceAndMiss(ShardIndex shard) {
    planner_->Place(shard);
    const MemberIndex member = First(shard);
    planner_->ReplicaMissed(shard, member, now_);
    return member;
  }
  // The replica joins, and misses a Put meanwhile.
  void FailToJoin(ShardIndex shard, MemberIndex member) {
    ASSERT_EQ(Tick().at(0).kind, Kind::kSettle);
    ASSERT_EQ(planner_->SetOf(shard).StateOf(member), kJoining);
    planner_->ReplicaMissed(shard, member, now_);
    ASSERT_EQ(planner_->SetOf(shard).StateOf(member), kStale);
  }
};

TEST_F(AwayTest, AMemberWhereAJoiningReplicaMissedAPutRestsForTwiceAsLongEachTime) {
  Make(2, 2);
  const MemberIndex slow = PlaceAndMiss(0);
  for (const Time rest : {Time(1s), Time(2s), Time(4s)}) {
    FailToJoin(0, slow);
    EXPECT_TRUE(Tick().empty());
    EXPECT_EQ(planner_->NextTick(now_), now_ + rest);
    now_ += rest - 1ms;
    EXPECT_TRUE(Tick().empty());
    now_ += 1ms;
  }
  Work();
  EXPECT_EQ(planner_->debt(), 0u);
  planner_->ReplicaMissed(0, slow, now_);
  FailToJoin(0, slow);
  EXPECT_EQ(planner_->NextTick(now_), now_ + 1s) << "a replica has joined since";
}

TEST_F(AwayTest, ReplicasThatJoinOnAMemberAtATimeCountAsOneMiss) {
  Make(2, 2);
  for (ShardIndex shard = 0; shard < 2; ++shard) planner_->Place(shard);
  planner_->ReplicaMissed(0, 1, now_);
  planner_->ReplicaMissed(1, 1, now_);
  ASSERT_EQ(Tick().size(), 2u);
  planner_->ReplicaMissed(0, 1, now_);
  planner_->ReplicaMissed(1, 1, now_);
  EXPECT_EQ(planner_->NextTick(now_), now_ + 1s);
}

TEST_F(AwayTest, OtherMembersJoinWhileOneRests) {
  Make(2, 3);
  const MemberIndex slow = PlaceAndMiss(0);
  FailToJoin(0, slow);
  planner_->Place(1);
  const auto other =
      static_cast<MemberIndex>(First(1) == slow ? planner_->SetOf(1).At(1).member : First(1));
  planner_->ReplicaMissed(1, other, now_);
  Work();
  EXPECT_EQ(planner_->SetOf(1).StateOf(other), kCurrent);
  EXPECT_EQ(planner_->SetOf(0).StateOf(slow), kStale) << "it is waited for";
}

TEST_F(AwayTest, AMemberThatIsTooSlowForAllItsRestsIsReplaced) {
  Make(2, 3);
  const MemberIndex slow = PlaceAndMiss(0);
  for (int i = 0; planner_->SetOf(0).StateOf(slow); ++i) {
    ASSERT_LT(i, 12);
    FailToJoin(0, slow);
    Work();
    now_ = std::max(planner_->NextTick(now_), now_);
  }
  EXPECT_EQ(planner_->debt(), 0u);
}

}  // namespace
}  // namespace farswap::placement
