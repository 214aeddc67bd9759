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

TEST_F(AwayTest, AReplicaThatMissedNothingIsCurrentAgainAtOnce) {
  Make(2, 3);
  planner_->Place(0);
  const MemberIndex away = First(0);
  planner_->MemberAway(away, now_);
  EXPECT_EQ(planner_->SetOf(0).StateOf(away), kStale);
  EXPECT_EQ(planner_->debt(), 1u);
  planner_->MemberBack(away, true);
  EXPECT_EQ(planner_->SetOf(0).StateOf(away), kCurrent);
  EXPECT_EQ(planner_->debt(), 0u);
  EXPECT_TRUE(Tick().empty());
}

TEST_F(AwayTest, AReplicaThatMissedSomethingOrHasAnUncleanStoreJoins) {
  const auto put = [this](MemberIndex) { planner_->Place(0); };
  const auto miss = [this](MemberIndex away) { planner_->ReplicaMissed(0, away, now_); };
  const auto nothing = [](MemberIndex) {};
  const auto joins = [this](const auto& meanwhile, bool intact) {
    reports_.clear();
    Make(2, 3);
    planner_->Place(0);
    const MemberIndex away = First(0);
    planner_->MemberAway(away, now_);
    meanwhile(away);
    planner_->MemberBack(away, intact);
    EXPECT_EQ(planner_->SetOf(0).StateOf(away), kStale);
    return Work().size() == 3 && planner_->SetOf(0).StateOf(away) == kCurrent;
  };
  EXPECT_TRUE(joins(put, true));
  EXPECT_TRUE(joins(miss, true));
  EXPECT_TRUE(joins(nothing, false));
}

TEST_F(AwayTest, OneOfTwoStaleReplicasMayLackSomethingThenBothJoin) {
  Make(3, 3);
  planner_->Place(0);
  planner_->MemberAway(0, now_);
  planner_->ReplicaMissed(0, 1, now_);
  planner_->MemberBack(0, true);
  EXPECT_EQ(planner_->SetOf(0).StateOf(0), kStale);
  Work();
  EXPECT_EQ(planner_->debt(), 0u);
}

TEST_F(AwayTest, NothingIsLostWithAStoreWhileAReplicaThatMissedNothingIsAway) {
  Make(2, 3);
  planner_->Place(0);
  const MemberIndex away = First(0);
  planner_->MemberAway(away, now_);
  planner_->MemberGone(In(planner_->SetOf(0), kCurrent).at(0));
  EXPECT_EQ(planner_->lost(), 0u);
  EXPECT_EQ(planner_->SetOf(0).StateOf(away), kCurrent) << "the last one";
  EXPECT_TRUE(Tick().empty());
  planner_->MemberBack(away, true);
  for (const Action& action : Work()) EXPECT_NE(action.member, away);
  EXPECT_EQ(planner_->SetOf(0).Count(kCurrent), 2u);
}

TEST_F(AwayTest, OfTwoMembersThatAreAwayAndMissedNothingTheFirstOneBackIsCurrent) {
  Make(2, 2);
  planner_->Place(0);
  planner_->MemberAway(0, now_);
  planner_->MemberAway(1, now_);
  EXPECT_EQ(planner_->SetOf(0).StateOf(1), kCurrent) << "the last one";
  planner_->MemberBack(0, true);
  EXPECT_EQ(planner_->SetOf(0).StateOf(0), kCurrent);
  EXPECT_EQ(planner_->SetOf(0).StateOf(1), kStale);
  planner_->MemberBack(1, true);
  EXPECT_EQ(planner_->debt(), 0u);
  EXPECT_TRUE(Tick().empty());
}

}  // namespace
}  // namespace farswap::placement
