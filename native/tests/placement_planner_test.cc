// The planner, event by event: what it does for a shard, and what it refuses to do.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <vector>

#include "placement/planner.h"
#include "placement_fixture.h"

namespace farswap::placement {
namespace {

using enum ReplicaState;
using Kind = Action::Kind;

TEST_F(PlannerTest, PlacesAShardOnAsManyMembersAsWanted) {
  Make(3, 5);
  const ReplicaSet set = planner_->Place(2);
  EXPECT_EQ(set.Count(kCurrent), 3u);
  EXPECT_EQ(planner_->SetOf(2), set);
  EXPECT_EQ(planner_->Place(2), set) << "once";
  EXPECT_TRUE(planner_->SetOf(1).empty());
  EXPECT_EQ(planner_->debt(), 0u);
}

TEST_F(PlannerTest, PrefersTheEmptierMembers) {
  Make(1, 2, 200);
  Report(0, [](Member* member) { member->used_bytes = 900; });
  for (ShardIndex shard = 0; shard < 200; ++shard) planner_->Place(shard);
  EXPECT_NEAR(planner_->ReplicasOn(0), 50, 25) << "chosen when both random choices are it";
}

TEST_F(PlannerTest, PlacesNothingOnMembersThatAreFullLeavingOrAway) {
  Make(1, 4);
  Report(0, [](Member* member) { member->full = true; });
  Report(1, [](Member* member) { member->leaving = true; });
  planner_->MemberAway(2, now_);
  for (ShardIndex shard = 0; shard < 8; ++shard) EXPECT_EQ(planner_->Place(shard).At(0).member, 3);
}

TEST_F(PlannerTest, StartsDegradedWhereMembersAreTooFewAndCatchesUp) {
  Make(2, 2);
  planner_->MemberAway(1, now_);
  EXPECT_EQ(planner_->Place(0).Count(kCurrent), 1u);
  EXPECT_EQ(planner_->debt(), 1u);
  EXPECT_TRUE(Work().empty());
  planner_->MemberBack(1, true);
  Work();
  EXPECT_EQ(planner_->SetOf(0).Count(kCurrent), 2u);
  EXPECT_EQ(planner_->debt(), 0u);
}

TEST_F(PlannerTest, PlacesNothingOnAMemberThatWasNeverReported) {
  Make(1, 1);
  Copyset unknown{.count = 1};
  unknown.members[0] = 4000;
  planner_->UseCopysets({unknown});
  EXPECT_TRUE(planner_->Place(0).empty());
}

TEST_F(PlannerTest, WithoutRoomAnywhereAShardIsNotPlaced) {
  Make(1, 1);
  Report(0, [](Member* member) { member->full = true; });
  EXPECT_TRUE(planner_->Place(0).empty());
}

TEST_F(PlannerTest, MovesAReplicaToTheMemberThatAnOperatorNames) {
  Make(2, 4);
  const ReplicaSet before = planner_->Place(0);
  const MemberIndex from = before.At(0).member;
  const MemberIndex stays = before.At(1).member;
  MemberIndex to = 0;
  while (before.StateOf(to)) ++to;
  // It is the fullest, which a surplus replica would leave.
  Report(stays, [](Member* member) { member->used_bytes = 900; });
  EXPECT_EQ(planner_->Move(0, from, to), "");
  EXPECT_EQ(planner_->Move(0, from, to), "the shard has a replica there already");
  EXPECT_EQ(planner_->SetOf(0).Count(kCurrent), 2u) << "no replica is missed meanwhile";
  const auto work = Work();
  EXPECT_EQ(In(planner_->SetOf(0), kCurrent), (std::vector{stays, to}));
  EXPECT_EQ(work.back().kind, Kind::kDrop);
  EXPECT_EQ(work.back().member, from);
}

TEST_F(PlannerTest, AMoveThatFailsLeavesTheReplicaWhereItWas) {
  Make(1, 2);
  const ReplicaSet before = planner_->Place(0);
  const MemberIndex from = before.At(0).member;
  const MemberIndex to = from == 0 ? 1 : 0;
  ASSERT_EQ(planner_->Move(0, from, to), "");
  for (const Action& action : Tick()) Finish(action, ActionResult::kFailed);
  EXPECT_EQ(In(planner_->SetOf(0), kCurrent), std::vector{from});
  EXPECT_EQ(planner_->SetOf(0).Count(kJoining), 0u);
}

TEST_F(PlannerTest, AMoveOfTheOnlyCurrentReplicaTakesThePlaceOfAStaleOne) {
  Make(3, 4);
  const ReplicaSet before = planner_->Place(0);
  const MemberIndex from = before.At(0).member;
  for (const std::size_t i : {1u, 2u}) planner_->MemberAway(before.At(i).member, now_);
  MemberIndex to = 0;
  while (before.StateOf(to)) ++to;
  ASSERT_EQ(planner_->Move(0, from, to), "");
  EXPECT_EQ(planner_->SetOf(0).StateOf(from), kCurrent);
}

TEST_F(PlannerTest, RefusesMovesThatItCannotMake) {
  Make(1, 3);
  const MemberIndex from = planner_->Place(0).At(0).member;
  const auto to = static_cast<MemberIndex>((from + 1) % 3);
  EXPECT_EQ(planner_->Move(1, from, to), "the shard has no current replica there");
  EXPECT_EQ(planner_->Move(0, to, from), "the shard has no current replica there");
  EXPECT_EQ(planner_->Move(0, from, from), "the shard has a replica there already");
  Report(to, [](Member* member) { member->leaving = true; });
  EXPECT_EQ(planner_->Move(0, from, to), "the target is away, full or draining");
  planner_->MemberAway(from, now_);
  EXPECT_EQ(planner_->Move(0, from, static_cast<MemberIndex>((from + 2) % 3)),
            "no server with a current replica is connected");
}

TEST_F(PlannerTest, AMoveKeepsTheFormerReplicaWhereAnotherIsGoneMeanwhile) {
  Make(2, 4);
  const ReplicaSet before = planner_->Place(0);
  const MemberIndex from = before.At(0).member;
  const MemberIndex other = before.At(1).member;
  MemberIndex to = 0;
  while (before.StateOf(to)) ++to;
  ASSERT_EQ(planner_->Move(0, from, to), "");
  planner_->MemberGone(other);
  for (auto actions = Tick(); !actions.empty() && planner_->SetOf(0).StateOf(to) != kCurrent;
       actions = Tick()) {
    for (const Action& action : actions) Finish(action);
  }
  EXPECT_EQ(In(planner_->SetOf(0), kCurrent), (std::vector{from, to}));
}

TEST_F(PlannerTest, WaitsForAMemberThatIsAwayAndThenCopiesTheChangesOnly) {
  Make(2, 3);
  planner_->Place(0);
  const MemberIndex away = First(0);
  planner_->MemberAway(away, now_);
  planner_->Place(0);  // a Put that it misses
  EXPECT_EQ(planner_->SetOf(0).StateOf(away), kStale);
  EXPECT_EQ(planner_->debt(), 1u);
  now_ += 4min;
  EXPECT_TRUE(Tick().empty());
  planner_->MemberBack(away, true);
  const auto done = Work();
  ASSERT_EQ(done.size(), 3u);
  for (const Action& action : done) EXPECT_EQ(action.member, away);
  EXPECT_TRUE(done[1].changes_only);
  EXPECT_EQ(planner_->SetOf(0).Count(kCurrent), 2u);
}

TEST_F(PlannerTest, ReplacesAMemberThatIsAwayForTooLong) {
  Make(2, 3);
  planner_->Place(0);
  const MemberIndex away = First(0);
  planner_->MemberAway(away, now_);
  now_ += 5min;
  EXPECT_EQ(planner_->NextTick(now_), now_);
  const auto done = Work();
  ASSERT_EQ(done.size(), 3u);
  EXPECT_NE(done[0].member, away);
  EXPECT_FALSE(done[1].changes_only);
  EXPECT_FALSE(planner_->SetOf(0).StateOf(away));
  EXPECT_EQ(planner_->debt(), 0u);
  EXPECT_TRUE(Tick().empty());
  planner_->MemberBack(away, true);
  const Action drop = Tick().at(0);
  EXPECT_EQ(drop.kind, Kind::kDrop);
  EXPECT_EQ(drop.member, away);
}

TEST_F(PlannerTest, TheLastCurrentReplicaNeverBecomesStale) {
  Make(2, 2);
  planner_->Place(0);
  planner_->MemberAway(0, now_);
  planner_->Place(0);  // a Put that it misses
  planner_->MemberAway(1, now_);
  planner_->ReplicaMissed(0, 1, now_);
  EXPECT_EQ(planner_->SetOf(0).StateOf(0), kStale);
  EXPECT_EQ(planner_->SetOf(0).StateOf(1), kCurrent);
  planner_->MemberBack(0, true);
  EXPECT_TRUE(Tick().empty()) << "nobody to copy from";
  planner_->MemberBack(1, true);
  Work();
  EXPECT_EQ(planner_->SetOf(0).Count(kCurrent), 2u);
}

TEST_F(PlannerTest, JoinsInOrderOneStepAtATime) {
  Make(1, 2);
  planner_->Place(0);
  const MemberIndex from = First(0);
  Report(from, [](Member* member) { member->leaving = true; });
  const auto to = static_cast<MemberIndex>(1 - from);

  auto actions = Tick();
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].kind, Kind::kSettle);
  EXPECT_EQ(planner_->SetOf(0).StateOf(to), kJoining) << "before older Puts are waited for";
  EXPECT_TRUE(Tick().empty()) << "while it is under way";
  Finish(actions[0]);

  actions = Tick();
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].kind, Kind::kCopy);
  EXPECT_EQ(actions[0].source, from);
  EXPECT_EQ(actions[0].member, to);
  Finish(actions[0]);

  actions = Tick();
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].kind, Kind::kCompare);
  EXPECT_EQ(planner_->SetOf(0).StateOf(to), kJoining);
  Finish(actions[0]);

  EXPECT_EQ(In(planner_->SetOf(0), kCurrent), std::vector{to});
  actions = Tick();
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].kind, Kind::kDrop);
  EXPECT_EQ(actions[0].member, from);
}

TEST_F(PlannerTest, AMemberWithoutCopySlotsIsTriedAgainLater) {
  Make(1, 2);
  planner_->Place(0);
  Report(First(0), [](Member* member) { member->leaving = true; });
  Finish(Tick().at(0));
  const Action copy = Tick().at(0);
  Finish(copy, ActionResult::kLater);
  EXPECT_TRUE(Tick().empty());
  EXPECT_EQ(planner_->NextTick(now_), now_ + 5s);
  now_ += 5s;
  EXPECT_EQ(Tick().at(0).kind, Kind::kCopy);
}

TEST_F(PlannerTest, AJoiningReplicaThatFailsLeavesAndAnotherTriesAfterAWhile) {
  Make(1, 2);
  planner_->Place(0);
  const MemberIndex from = First(0);
  Report(from, [](Member* member) { member->leaving = true; });
  Finish(Tick().at(0), ActionResult::kFailed);
  EXPECT_EQ(In(planner_->SetOf(0), kCurrent), std::vector{from});
  EXPECT_EQ(planner_->SetOf(0).Count(kJoining), 0u);
  EXPECT_EQ(Tick().at(0).kind, Kind::kDrop) << "of what it has by then";
  EXPECT_TRUE(Tick().empty());
  now_ = planner_->NextTick(now_);
  EXPECT_EQ(Tick().at(0).kind, Kind::kSettle);
}

TEST_F(PlannerTest, TheOutcomeOfAnOvertakenActionChangesNothing) {
  Make(1, 3);
  planner_->Place(0);
  Report(First(0), [](Member* member) { member->leaving = true; });
  const Action settle = Tick().at(0);
  planner_->MemberAway(settle.member, now_);
  const ReplicaSet set = planner_->SetOf(0);
  EXPECT_EQ(set.Count(kJoining), 0u);
  Finish(settle);
  EXPECT_EQ(planner_->SetOf(0), set);
}

TEST_F(PlannerTest, ADrainedMemberKeepsItsReplicaUntilAnotherIsCurrent) {
  for (const std::size_t replicas : {1u, 2u}) {
    Make(replicas, 4);
    planner_->Place(0);
    const MemberIndex drained = First(0);
    Report(drained, [](Member* member) { member->leaving = true; });
    for (int step = 0; step < 3; ++step) {
      EXPECT_EQ(planner_->SetOf(0).StateOf(drained), kCurrent);
      Finish(Tick().at(0));
    }
    EXPECT_FALSE(planner_->SetOf(0).StateOf(drained));
    EXPECT_EQ(planner_->SetOf(0).Count(kCurrent), replicas);
    reports_.clear();
  }
}

TEST_F(PlannerTest, ADrainOfOneInAFullSetLeavesTwoReplicas) {
  Make(3, 4);
  planner_->Place(0);
  const MemberIndex drained = First(0);
  Report(drained, [](Member* member) { member->leaving = true; });
  Finish(Tick().at(0));
  EXPECT_EQ(planner_->SetOf(0).Count(kCurrent), 2u);
  const auto done = Work();
  EXPECT_EQ(planner_->SetOf(0).Count(kCurrent), 3u);
  EXPECT_TRUE(std::ranges::any_of(done, [&](const Action& action) {
    return action.kind == Kind::kDrop && action.member == drained;
  }));
}

TEST_F(PlannerTest, ReplicasWithoutRoomForAPutAreReplacedAtOnce) {
  Make(2, 3);
  planner_->Place(0);
  const MemberIndex full = First(0);
  Report(full, [](Member* member) { member->full = true; });
  EXPECT_TRUE(Tick().empty()) << "it has all its pages";
  planner_->ReplicaMissed(0, full, now_);
  Work();
  EXPECT_FALSE(planner_->SetOf(0).StateOf(full));
  EXPECT_EQ(planner_->debt(), 0u);
}

TEST_F(PlannerTest, AReserveTakesReplicasThatAreMissingAndNothingElse) {
  Make(2, 3);
  planner_->Place(0);
  const ReplicaSet set = planner_->SetOf(0);
  const MemberIndex gone = First(0);
  for (MemberIndex member = 0; member < 3; ++member) {
    Report(member, [](Member* it) { it->full = true; });
  }
  planner_->MemberGone(gone);
  EXPECT_TRUE(Work().empty());
  EXPECT_EQ(planner_->debt(), 1u);
  for (MemberIndex member = 0; member < 3; ++member) {
    Report(member, [](Member* it) { it->full = it->reserve = true; });
  }
  EXPECT_TRUE(planner_->Place(1).empty());
  Work();
  EXPECT_EQ(planner_->debt(), 0u);
  EXPECT_EQ(planner_->SetOf(0).Count(kCurrent), 2u);
  const ReplicaSet repaired = planner_->SetOf(0);
  Report(repaired.At(0).member, [](Member* it) { it->leaving = true; });
  EXPECT_TRUE(Work().empty()) << "a drain";
  EXPECT_EQ(planner_->SetOf(0), repaired);
  EXPECT_NE(repaired, set);
}

TEST_F(PlannerTest, AStaleReplicaOfAFullMemberRejoinsByItsReserveWhereNoMemberHasRoom) {
  Make(2, 2);
  planner_->Place(0);
  for (MemberIndex member = 0; member < 2; ++member) {
    Report(member, [](Member* it) { it->full = it->reserve = true; });
  }
  const MemberIndex away = First(0);
  planner_->MemberAway(away, now_);
  planner_->Place(0);  // a Put that it misses
  planner_->MemberBack(away, true);
  Work();
  EXPECT_EQ(planner_->SetOf(0).StateOf(away), kCurrent);
  EXPECT_EQ(planner_->debt(), 0u);
}

TEST_F(PlannerTest, AStoreThatIsGoneIsReplacedFromTheOther) {
  Make(2, 3);
  planner_->Place(0);
  const MemberIndex gone = First(0);
  planner_->MemberGone(gone);
  const auto done = Work();
  ASSERT_EQ(done.size(), 3u);
  EXPECT_NE(done[1].source, gone);
  EXPECT_EQ(planner_->SetOf(0).Count(kCurrent), 2u);
  EXPECT_EQ(planner_->lost(), 0u);
  EXPECT_EQ(planner_->ReplicasOn(gone), 0u);
}

TEST_F(PlannerTest, AShardWhoseEveryStoreIsGoneIsLostAndPlacedAgain) {
  Make(2, 4);
  planner_->Place(0);
  for (const MemberIndex member : In(planner_->SetOf(0), kCurrent)) planner_->MemberGone(member);
  EXPECT_EQ(planner_->lost(), 1u);
  EXPECT_TRUE(planner_->SetOf(0).empty());
  EXPECT_EQ(planner_->Place(0).Count(kCurrent), 2u);
}

TEST_F(PlannerTest, AStaleReplicaIsPromotedWhenItIsAllThatIsLeft) {
  Make(2, 3);
  planner_->Place(0);
  const MemberIndex stale = First(0);
  planner_->MemberAway(stale, now_);
  planner_->Place(0);  // a Put that it misses
  planner_->MemberGone(In(planner_->SetOf(0), kCurrent).at(0));
  EXPECT_TRUE(Tick().empty());
  planner_->MemberBack(stale, true);
  const Action compare = Tick().at(0);
  EXPECT_EQ(compare.kind, Kind::kCompare);
  EXPECT_EQ(compare.member, stale);
  Finish(compare);
  EXPECT_EQ(planner_->SetOf(0).StateOf(stale), kCurrent);
  EXPECT_EQ(planner_->lost(), 1u) << "what it missed is";
}

TEST_F(PlannerTest, AJoiningReplicaIsComparedWhenItsSourceIsGone) {
  Make(1, 3);
  planner_->Place(0);
  const MemberIndex from = First(0);
  Report(from, [](Member* member) { member->leaving = true; });
  const Action settle = Tick().at(0);
  planner_->MemberGone(from);
  const Action compare = Tick().at(0);
  EXPECT_EQ(compare.kind, Kind::kCompare);
  EXPECT_EQ(compare.member, settle.member);
  Finish(compare);
  EXPECT_EQ(planner_->SetOf(0).StateOf(settle.member), kCurrent);
  EXPECT_EQ(planner_->lost(), 1u);
}

TEST_F(PlannerTest, ADroppedShardAlwaysHasAFullSetElsewhere) {
  Make(2, 3);
  planner_->Place(0);
  const MemberIndex left = First(0);
  planner_->MemberAway(left, now_);
  now_ += 5min;
  Work();
  const MemberIndex stays = First(0);
  planner_->MemberGone(stays);
  planner_->MemberBack(left, true);
  for (const Action& action : Tick()) EXPECT_NE(action.kind, Kind::kDrop);
}

TEST_F(PlannerTest, ADropIsRepeatedUntilItsMemberHasDoneIt) {
  Make(1, 2);
  planner_->Place(0);
  const MemberIndex from = First(0);
  Report(from, [](Member* member) { member->leaving = true; });
  for (int step = 0; step < 3; ++step) Finish(Tick().at(0));
  const Action first = Tick().at(0);
  ASSERT_EQ(first.kind, Kind::kDrop);
  Finish(first, ActionResult::kFailed);
  EXPECT_TRUE(Tick().empty());
  planner_->MemberAway(from, now_);
  now_ += 10min;
  EXPECT_TRUE(Tick().empty());
  planner_->MemberBack(from, true);
  const Action second = Tick().at(0);
  EXPECT_EQ(second.kind, Kind::kDrop);
  EXPECT_EQ(second.member, from);
  Finish(first);
  EXPECT_TRUE(Tick().empty()) << "that action was overtaken";
  Finish(second);
  planner_->MemberAway(from, now_);
  planner_->MemberBack(from, true);
  EXPECT_TRUE(Tick().empty());
}

TEST_F(PlannerTest, AnotherNumberOfReplicasBecomesWork) {
  Make(1, 4);
  planner_->Place(0);
  planner_->SetReplicas(3);
  EXPECT_EQ(planner_->debt(), 1u);
  Work();
  EXPECT_EQ(planner_->SetOf(0).Count(kCurrent), 3u);
  EXPECT_EQ(planner_->debt(), 0u);
  planner_->SetReplicas(2);
  const auto actions = Tick();
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].kind, Kind::kDrop);
  EXPECT_EQ(planner_->SetOf(0).Count(kCurrent), 2u);
}

TEST_F(PlannerTest, AtMostSoManyReplicasJoinAtATime) {
  Make(1, 3);
  for (ShardIndex shard = 0; shard < 8; ++shard) planner_->Place(shard);
  for (const MemberIndex member : std::array<MemberIndex, 2>{0, 1}) {
    Report(member, [](Member* report) { report->leaving = true; });
  }
  const auto first = Tick();
  EXPECT_EQ(first.size(), 2u);
  EXPECT_EQ(planner_->jobs(), 2u);
  for (const Action& action : first) Finish(action);
  Work();
  EXPECT_EQ(planner_->ReplicasOn(2), 8u);
}

TEST_F(PlannerTest, IsDueAgainAtOnceWhileShardsWait) {
  Make(1, 3);
  for (ShardIndex shard = 0; shard < 8; ++shard) planner_->Place(shard);
  for (const MemberIndex member : std::array<MemberIndex, 2>{0, 1}) {
    Report(member, [](Member* report) { report->leaving = true; });
  }
  std::vector<Action> actions = Tick();
  while (!actions.empty()) {
    for (const Action& action : actions) Finish(action);
    if (planner_->ReplicasOn(2) == 8 && planner_->jobs() == 0) return;
    ASSERT_EQ(planner_->NextTick(now_), now_);
    actions = Tick();
  }
  FAIL() << planner_->ReplicasOn(2);
}

TEST_F(PlannerTest, ShardsWithFewerReplicasComeBeforeDrains) {
  Make(2, 4, 40);
  for (ShardIndex shard = 0; shard < 40; ++shard) planner_->Place(shard);
  Report(0, [](Member* member) { member->leaving = true; });
  planner_->MemberGone(1);
  for (const Action& action : Tick()) EXPECT_LT(planner_->SetOf(action.shard).Count(kCurrent), 2u);
}

TEST_F(PlannerTest, MovesAShardToANewMemberThatIsMuchEmptier) {
  Make(1, 2);
  for (ShardIndex shard = 0; shard < 8; ++shard) planner_->Place(shard);
  for (const MemberIndex member : std::array<MemberIndex, 2>{0, 1}) {
    Report(member, [](Member* report) { report->used_bytes = 600; });
  }
  now_ = planner_->NextTick(now_);
  EXPECT_TRUE(Tick().empty()) << "they are alike";
  planner_->Report(2, {.id = HashOf(2, 9), .domain = 2, .capacity_bytes = 1000, .used_bytes = 0});
  planner_->UseCopysets(MakeCopysets(
      std::vector<Peer>{{0, HashOf(0, 9), 0}, {1, HashOf(1, 9), 1}, {2, HashOf(2, 9), 2}}, 1, 4));
  bool moved = false;
  for (int round = 0; round < 20 && !moved; ++round) {
    now_ += 1000h;
    moved = !Work().empty();
  }
  EXPECT_TRUE(moved);
  EXPECT_GT(planner_->ReplicasOn(2), 0u);
}

}  // namespace
}  // namespace farswap::placement
