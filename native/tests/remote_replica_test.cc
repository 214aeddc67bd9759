// A page on several servers: writes that all of them take, reads that any of them answers.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "remote/cluster.h"
#include "remote/put_eras.h"
#include "remote/put_part.h"
#include "remote_borrowers.h"
#include "remote_fake_store.h"

namespace farswap::remote {
namespace {

using std::chrono::milliseconds;
using tier::GetResult;
using tier::kShardSlots;
using tier::PutResult;

// Two replicas on three servers.
class ReplicaTest : public ::testing::Test {
 protected:
  static constexpr milliseconds kShort{50};
  const std::vector<std::string> kBothCurrent{"current", "current"};

  void SetUp() override { Connect({}); }
  // By default, heartbeats are frequent and none is ever missed.
  struct Waits {
    milliseconds outage = kShort;
    milliseconds silence = 2 * kHangGuard;
    milliseconds lease = 5 * kShort;
  };
  void Connect(const Waits& waits) {
    cluster_.reset();
    ClusterConfig config =
        TestConfig({stores_[0].address(), stores_[1].address(), stores_[2].address()});
    config.replicas = 2;
    config.outage_wait = waits.outage;
    config.silence_wait = waits.silence;
    for (FakeStore& store : stores_) {
      store.Tell([&](FakeStore::Script* script) { script->lease = waits.lease; });
    }
    cluster_ = NewCluster(config, &objects_);
    for (std::size_t i = 0; i < 3; ++i) ASSERT_TRUE(Connected(*cluster_, i));
  }
  void TearDown() override { cluster_.reset(); }

  FakeStore& StoreAt(const std::string& address) {
    for (FakeStore& store : stores_) {
      if (store.address() == address) return store;
    }
    ADD_FAILURE() << "no store at " << address;
    return stores_[0];
  }
  FakeStore& Replica(std::size_t index, tier::SlotIndex slot = 0) {
    return StoreAt(cluster_->ReplicasOf(slot)[index].address);
  }
  std::vector<std::string> StatesOf(tier::SlotIndex slot) {
    std::vector<std::string> states;
    for (const auto& replica : cluster_->ReplicasOf(slot)) states.push_back(replica.state);
    return states;
  }
  std::size_t ConnectedServers() {
    const auto servers = cluster_->Servers();
    return static_cast<std::size_t>(
        std::ranges::count_if(servers, [](const auto& server) { return server.connected(); }));
  }
  // The slot is put again until the cluster has noticed which servers are away.
  tier::ObjectVersion PutUntilAcked(tier::SlotIndex slot, tier::ObjectVersion version) {
    EXPECT_TRUE(
        Eventually([&] { return PutOne(*cluster_, slot, ++version) == PutResult::kAcked; }));
    return version;
  }

  // Enough for work that does not wait as it should.
  static void LetTimePass(const FakeStore& store) {
    const std::uint64_t heartbeats = store.seen().heartbeats;
    ASSERT_TRUE(Eventually([&] { return store.seen().heartbeats >= heartbeats + 8; }));
  }

  std::array<FakeStore, 3> stores_;
  TestObjects objects_;
  std::unique_ptr<Cluster> cluster_;
};

TEST_F(ReplicaTest, APageIsPutOnTwoServers) {
  for (std::size_t shard = 0; shard < 8; ++shard) {
    const auto slot = static_cast<tier::SlotIndex>(shard * kShardSlots);
    ASSERT_EQ(PutOne(*cluster_, slot, 1), PutResult::kAcked);
    EXPECT_EQ(StatesOf(slot), kBothCurrent);
    std::size_t copies = 0;
    for (const FakeStore& store : stores_) copies += store.Has(slot) ? 1 : 0;
    EXPECT_EQ(copies, 2u);
  }
  EXPECT_EQ(cluster_->Placement().debt, 0u);
}

TEST_F(ReplicaTest, APageIsAcknowledgedOnceBothServersHaveIt) {
  Connect({.outage = 2 * kHangGuard});
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  Replica(1).Tell([](FakeStore::Script* script) { script->hold_puts = true; });
  TestBatch batch;
  batch.Add(0, 2);
  Put(*cluster_, batch);
  ASSERT_TRUE(Eventually([&] { return Replica(0).seen().batches == 2; }));
  EXPECT_FALSE(batch.done.ready());
  Replica(1).Tell([](FakeStore::Script* script) { script->hold_puts = false; });
  ASSERT_TRUE(batch.done.Wait());
  EXPECT_EQ(batch.results[0], PutResult::kAcked);
}

TEST_F(ReplicaTest, WhatOneReplicaHasLostComesFromTheOther) {
  TestBatch batch;
  for (tier::SlotIndex slot = 0; slot < 8; ++slot) batch.Add(slot, 1);
  Put(*cluster_, batch);
  ASSERT_TRUE(batch.done.Wait());
  Replica(0).Lose(1);
  Replica(1).Lose(2);
  TestFetch fetch;
  for (tier::SlotIndex slot = 0; slot < 8; ++slot) fetch.Add(slot);
  Get(*cluster_, fetch);
  ASSERT_TRUE(fetch.done.Wait());
  for (std::size_t i = 0; i < 8; ++i) EXPECT_TRUE(fetch.Holds(i, 1)) << i;
  const std::uint64_t first = Replica(0).seen().fetches;
  EXPECT_EQ(first + Replica(1).seen().fetches, 2u) << "one is asked, then the other";
  ASSERT_TRUE(Eventually([&] { return cluster_->Placement().repaired_objects == 1; }));
  EXPECT_EQ(Replica(0).seen().repaired_keys, std::vector<std::uint64_t>{1});
  EXPECT_EQ(Replica(0).seen().repair_source, Replica(1).address());
  EXPECT_TRUE(Replica(1).seen().repaired_keys.empty()) << "it was not asked for that";
}

TEST_F(ReplicaTest, WhatBothHaveLostIsMissingOnce) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  for (FakeStore& store : stores_) store.Lose(0);
  EXPECT_EQ(GetOne(*cluster_, 0), GetResult::kNotFound);
  EXPECT_EQ(Replica(0).seen().fetches + Replica(1).seen().fetches, 2u);
  LetTimePass(Replica(0));
  EXPECT_TRUE(Replica(0).seen().repaired_keys.empty()) << "there is no source";
}

TEST_F(ReplicaTest, AnObjectThatIsRefusedComesFromTheOther) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  class Picky final : public tier::RemoteFetch {
   public:
    Picky() { keys[count++] = 0; }
    tier::Verdict OnObject(std::size_t, const tier::Object&) override {
      return ++offered == 1 ? tier::Verdict::kTryAnother : tier::Verdict::kAccept;
    }
    void OnMissing(std::size_t, GetResult) override { ADD_FAILURE(); }
    void OnGetDone() override { done.Set(); }
    int offered = 0;
    Waiter<> done;
  } fetch;
  cluster_->Get(&fetch);
  ASSERT_TRUE(fetch.done.Wait());
  EXPECT_EQ(fetch.offered, 2);
  ASSERT_TRUE(Eventually([&] { return cluster_->Placement().repaired_objects == 1; }));
  EXPECT_EQ(Replica(0).seen().repaired_keys, std::vector<std::uint64_t>{0});
}

TEST_F(ReplicaTest, ARepairThatAServerRefusesForNowIsRepeated) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  Replica(0).Lose(0);
  Replica(0).Tell([](FakeStore::Script* script) { script->refused_copies = 1; });
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Holds(*cluster_, 0, 1));
  ASSERT_TRUE(Eventually([&] { return cluster_->Placement().repaired_objects == 1; }));
  EXPECT_EQ(cluster_->Placement().failed_repairs, 0u);
}

TEST_F(ReplicaTest, AServerThatIsAwayDelaysNoFetch) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  for (FakeStore* const store : {&Replica(0), &Replica(1)}) {
    store->Stop();
    ASSERT_TRUE(Eventually([&] { return ConnectedServers() == 2; }));
    EXPECT_TRUE(Holds(*cluster_, 0, 1));
    store->Start();
    ASSERT_TRUE(Eventually([&] { return ConnectedServers() == 3 && StatesOf(0) == kBothCurrent; }));
  }
}

// The lease of 10 s would have one with a single replica wait for it.
TEST_F(ReplicaTest, AServerThatAnswersNoHeartbeatIsAwayAfterTwo) {
  Connect({.silence = 2 * kShort, .lease = milliseconds(10'000)});
  stores_[0].Tell([](FakeStore::Script* script) { script->ignore_heartbeats = true; });
  ASSERT_TRUE(Eventually([&] {
    return cluster_->Servers()[0].last_error.ends_with("2 heartbeats without an answer");
  }));
}

TEST_F(ReplicaTest, FetchesUnderWayMoveOnWhenTheirServerGoesAway) {
  Connect({.outage = 2 * kHangGuard});
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  FakeStore& asked = Replica(0);  // shard 0 begins with it
  asked.Tell([](FakeStore::Script* script) { script->hold_gets = true; });
  std::vector<std::unique_ptr<TestFetch>> fetches;
  for (int i = 0; i < 10; ++i) {  // too few for a hedge
    fetches.push_back(std::make_unique<TestFetch>(0));
    Get(*cluster_, *fetches.back());
  }
  EXPECT_EQ(Replica(1).seen().fetches, 0u);
  asked.Stop();
  for (const auto& fetch : fetches) {
    ASSERT_TRUE(fetch->done.Wait());
    EXPECT_TRUE(fetch->Holds(0, 1));
  }
  EXPECT_GT(Replica(1).seen().fetches, 0u);
}

TEST_F(ReplicaTest, WritesDoWithoutAServerThatIsAwayAndItsOldPagesAreNotRead) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  FakeStore& away = Replica(0);
  away.Stop();
  const tier::ObjectVersion version = PutUntilAcked(0, 1);
  EXPECT_EQ(cluster_->Placement().debt, 1u);
  EXPECT_TRUE(Holds(*cluster_, 0, version));
  const std::uint64_t asked = away.seen().fetches;
  away.Tell([](FakeStore::Script* script) { script->hold_copies = true; });
  away.Start();
  ASSERT_TRUE(Eventually([&] { return ConnectedServers() == 3; }));
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(Holds(*cluster_, 0, version));
  EXPECT_EQ(away.seen().fetches, asked) << "it has an older page";
}

TEST_F(ReplicaTest, AServerThatRefusesConnectionsHoldsUpNoWrite) {
  Connect({.outage = 2 * kHangGuard});
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  FakeStore& killed = Replica(1);
  killed.Tell([](FakeStore::Script* script) { script->hold_puts = true; });
  TestBatch batch;
  batch.Add(0, 2);
  Put(*cluster_, batch);
  ASSERT_TRUE(Eventually([&] { return Replica(0).seen().batches == 2; }));
  killed.Stop();
  ASSERT_TRUE(batch.done.Wait());
  EXPECT_EQ(StatesOf(0).back(), "stale");
  EXPECT_EQ(PutOne(*cluster_, 0, 3), PutResult::kAcked);
}

// A Put that was sent to the replicas of before may reach the source after the copy has read it.
TEST_F(ReplicaTest, AReplicaIsCopiedOnceAllPutsToTheFormerSetHaveEnded) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  FakeStore& stays = Replica(0);
  FakeStore& away = Replica(1);
  away.Stop();
  const tier::ObjectVersion version = PutUntilAcked(0, 1);
  stays.Tell([](FakeStore::Script* script) { script->hold_puts = true; });
  TestBatch batch;
  batch.Add(1, 1);
  Put(*cluster_, batch);
  objects_.Want(0, version);
  objects_.Want(1, 1);
  objects_.Want(2, 1);
  away.Start();
  ASSERT_TRUE(Eventually([&] { return StatesOf(0).back() == "joining"; }));
  // It gets what is written from now on.
  TestBatch later;
  later.Add(2, 1);
  Put(*cluster_, later);
  ASSERT_TRUE(Eventually([&] { return away.Has(2); }));
  LetTimePass(away);
  EXPECT_EQ(away.seen().copies, 0u);
  EXPECT_FALSE(batch.done.ready());
  stays.Tell([](FakeStore::Script* script) { script->hold_puts = false; });
  ASSERT_TRUE(batch.done.Wait() && later.done.Wait());
  ASSERT_TRUE(Eventually([&] { return StatesOf(0).back() == "current"; }));
  EXPECT_EQ(away.seen().copies, 1u);
  EXPECT_EQ(away.seen().copied_keys, (std::vector<std::uint64_t>{0, 1})) << "what it still lacks";
  EXPECT_TRUE(Holds(*cluster_, 0, version));
}

// Else the Put would leave an object that nothing drops any more.
TEST_F(ReplicaTest, AReplicaIsDroppedOnceAllPutsToItHaveEnded) {
  Connect({.outage = 2 * kHangGuard});
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  FakeStore& leaves = Replica(0);
  FakeStore& joins =
      *std::ranges::find_if(stores_, [](const FakeStore& store) { return !store.Has(0); });
  joins.Tell([](FakeStore::Script* script) { script->hold_copies = true; });
  leaves.Tell([](FakeStore::Script* script) { script->state = v1::SERVER_STATE_DRAINING; });
  // By then it waits for no Put.
  ASSERT_TRUE(Eventually([&] { return joins.seen().copy_calls > 0; }));
  leaves.Tell([](FakeStore::Script* script) { script->hold_puts = true; });
  TestBatch batch;
  batch.Add(1, 1);
  Put(*cluster_, batch);
  ASSERT_TRUE(Eventually([&] { return joins.Has(1); }));
  joins.Tell([](FakeStore::Script* script) { script->hold_copies = false; });
  ASSERT_TRUE(Eventually([&] { return StatesOf(0) == kBothCurrent; }));
  LetTimePass(leaves);
  EXPECT_EQ(leaves.seen().discards, 0u);
  leaves.Tell([](FakeStore::Script* script) { script->hold_puts = false; });
  ASSERT_TRUE(batch.done.Wait());
  EXPECT_TRUE(Eventually([&] { return !leaves.Has(0) && !leaves.Has(1); }));
}

// Its heartbeats are answered, as with a disk that hangs.
TEST_F(ReplicaTest, AServerThatAnswersNoPutHoldsUpNone) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  FakeStore& stays = Replica(0);
  FakeStore& hangs = Replica(1);
  hangs.Tell([](FakeStore::Script* script) { script->hold_puts = true; });
  EXPECT_EQ(PutOne(*cluster_, 0, 2), PutResult::kUnavailable) << "the other one has it";
  EXPECT_EQ(StatesOf(0), (std::vector<std::string>{"current", "stale"}));
  EXPECT_EQ(PutOne(*cluster_, 0, 3), PutResult::kAcked);
  EXPECT_TRUE(Holds(*cluster_, 0, 3));
  EXPECT_EQ(ConnectedServers(), 3u);
  LetTimePass(stays);
  EXPECT_EQ(hangs.seen().copies, 0u) << "it does not join while it answers nothing";
  hangs.Tell([](FakeStore::Script* script) { script->hold_puts = false; });
  ASSERT_TRUE(Eventually([&] { return StatesOf(0) == kBothCurrent; }));
  EXPECT_EQ(hangs.seen().copies, 1u);
  EXPECT_EQ(PutOne(*cluster_, 0, 4), PutResult::kAcked);
}

TEST_F(ReplicaTest, AJoiningReplicaThatAnswersNoPutHoldsUpNone) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  FakeStore& joins = Replica(1);
  joins.Stop();
  tier::ObjectVersion version = PutUntilAcked(0, 1);
  joins.Tell([](FakeStore::Script* script) { script->hold_puts = script->hold_copies = true; });
  joins.Start();
  ASSERT_TRUE(Eventually([&] { return StatesOf(0).back() == "joining"; }));
  version = PutUntilAcked(0, version);
  EXPECT_EQ(StatesOf(0).back(), "stale");
  EXPECT_TRUE(Holds(*cluster_, 0, version));
}

// It answers Puts, but slowly, which is no outage.
TEST_F(ReplicaTest, AJoiningReplicaThatAnswersSlowlyLeavesAndJoinsLater) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  FakeStore& slow = Replica(1);
  slow.Stop();
  tier::ObjectVersion version = PutUntilAcked(0, 1);
  slow.Tell([](FakeStore::Script* script) {
    script->hold_puts = script->hold_copies = script->chatter = true;
  });
  slow.Start();
  ASSERT_TRUE(Eventually([&] { return StatesOf(0).back() == "joining"; }));
  EXPECT_EQ(PutOne(*cluster_, 0, ++version), PutResult::kUnavailable);
  EXPECT_EQ(StatesOf(0), (std::vector<std::string>{"current", "stale"}));
  EXPECT_EQ(PutOne(*cluster_, 0, ++version), PutResult::kAcked);
  EXPECT_TRUE(Holds(*cluster_, 0, version));
  objects_.Want(0, version);
  slow.Tell([](FakeStore::Script* script) { script->hold_puts = script->hold_copies = false; });
  ASSERT_TRUE(Eventually([&] { return StatesOf(0) == kBothCurrent; }));
  EXPECT_EQ(slow.seen().copied_keys, std::vector<std::uint64_t>{0}) << "the Put that it missed";
}

// Else the Put would leave an object that nothing drops any more.
TEST_F(ReplicaTest, AReplicaThatLeftIsDroppedOnceItsServerHasAnsweredAllPuts) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  FakeStore& leaves = Replica(0);
  FakeStore& joins =
      *std::ranges::find_if(stores_, [](const FakeStore& store) { return !store.Has(0); });
  joins.Tell([](FakeStore::Script* script) { script->hold_copies = true; });
  leaves.Tell([](FakeStore::Script* script) { script->state = v1::SERVER_STATE_DRAINING; });
  ASSERT_TRUE(Eventually([&] { return joins.seen().copy_calls > 0; }));
  ASSERT_EQ(PutOne(*cluster_, 1, 1), PutResult::kAcked);
  ASSERT_TRUE(joins.Has(1));
  // It gets no other replica meanwhile.
  leaves.Tell([](FakeStore::Script* script) { script->state = v1::SERVER_STATE_ACTIVE; });
  LetTimePass(leaves);
  joins.Tell([](FakeStore::Script* script) { script->hold_puts = script->chatter = true; });
  EXPECT_EQ(PutOne(*cluster_, 2, 1), PutResult::kUnavailable);
  EXPECT_EQ(StatesOf(0), kBothCurrent);
  joins.Tell([](FakeStore::Script* script) { script->hold_copies = false; });
  LetTimePass(joins);
  EXPECT_EQ(joins.seen().discards, 0u);
  joins.Tell([](FakeStore::Script* script) { script->hold_puts = false; });
  EXPECT_TRUE(
      Eventually([&] { return joins.seen().batches > 0 && !joins.Has(1) && !joins.Has(2); }));
}

TEST_F(ReplicaTest, AServerThatIsTheOnlyOneIsWaitedForWhenItAnswersNoPut) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  FakeStore& last = Replica(0);
  Replica(1).Stop();
  PutUntilAcked(0, 1);
  last.Tell([](FakeStore::Script* script) { script->hold_puts = true; });
  TestBatch batch;
  batch.Add(0, 100);
  Put(*cluster_, batch);
  LetTimePass(last);
  EXPECT_FALSE(batch.done.ready());
  last.Tell([](FakeStore::Script* script) { script->hold_puts = false; });
  ASSERT_TRUE(batch.done.Wait());
  EXPECT_EQ(batch.results[0], PutResult::kAcked);
}

TEST_F(ReplicaTest, TheLastServerOfAShardIsWaitedFor) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  FakeStore& first = Replica(0);
  FakeStore& last = Replica(1);
  first.Stop();
  const tier::ObjectVersion version = PutUntilAcked(0, 1);
  last.Stop();
  ASSERT_TRUE(Eventually([&] { return PutOne(*cluster_, 0, 100) == PutResult::kUnavailable; }));
  TestFetch fetch(0);
  Get(*cluster_, fetch);
  EXPECT_FALSE(fetch.done.ready());
  last.Start();
  ASSERT_TRUE(fetch.done.Wait());
  EXPECT_TRUE(fetch.Holds(0, version) || fetch.Holds(0, 100));
}

TEST_F(ReplicaTest, AFullServerFailsThePageAndIsReplacedByAnother) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  Replica(0).Tell([](FakeStore::Script* script) { script->full = true; });
  EXPECT_EQ(PutOne(*cluster_, 0, 2), PutResult::kUnavailable) << "the other one keeps it";
  const tier::ObjectVersion version = PutUntilAcked(0, 2);
  EXPECT_TRUE(Holds(*cluster_, 0, version));
}

TEST_F(ReplicaTest, DiscardsReachBothServers) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  ASSERT_TRUE(cluster_->TakesDiscards(0));
  Discard(*cluster_, {{0, 1}});
  EXPECT_TRUE(Eventually([&] {
    return std::ranges::none_of(stores_, [](const FakeStore& store) { return store.Has(0); });
  }));
}

TEST_F(ReplicaTest, StopEndsAllThatIsUnderWay) {
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  for (FakeStore& store : stores_) {
    store.Tell([](FakeStore::Script* script) { script->hold_gets = script->hold_puts = true; });
  }
  TestBatch batch;
  batch.Add(0, 2);
  Put(*cluster_, batch);
  TestFetch fetch(0);
  Get(*cluster_, fetch);
  cluster_->Stop();
  ASSERT_TRUE(batch.done.Wait());
  ASSERT_TRUE(fetch.done.Wait());
  EXPECT_EQ(batch.results[0], PutResult::kUnavailable);
  EXPECT_EQ(fetch.answered[0].result, GetResult::kUnavailable);
}

TEST(Worse, OrdersResults) {
  using enum PutResult;
  const std::array order{kSuperseded, kUnavailable, kRejected, kServerFull, kAcked};
  for (std::size_t worse = 0; worse < order.size(); ++worse) {
    for (std::size_t better = worse; better < order.size(); ++better) {
      EXPECT_EQ(Worse(order[worse], order[better]), order[worse]);
      EXPECT_EQ(Worse(order[better], order[worse]), order[worse]);
    }
  }
}

// Members that are current for all objects, and what it was called for.
class PartObserver final : public PutObserver {
 public:
  bool IsCurrent(tier::ObjectKey, MemberIndex member) const override {
    return std::ranges::find(current, member) != current.end();
  }
  void OnPartDone(const PutPart&) override { ++parts; }
  void OnPutEnded(std::uint64_t) override { ++ended; }
  std::vector<MemberIndex> current;
  int parts = 0;
  int ended = 0;
};

PutPart* PartOf(const std::shared_ptr<SplitBatch>& split, MemberIndex member) {
  auto part = std::make_unique<PutPart>();
  part->split = split;
  part->member = member;
  part->indices[part->count++] = 0;
  ++split->parts_left;
  return part.release();
}

TEST(PutPart, IsLeftOnlyWhereNoReplicaOfItsMemberIsCurrentAndAnotherOneHasTheObject) {
  PartObserver observer;
  observer.current = {0};
  TestBatch batch;
  batch.Add(0, 1);
  batch.results[0] = PutResult::kAcked;
  auto split = std::make_shared<SplitBatch>(&batch, &observer, 0);
  PutPart* const current = PartOf(split, 0);
  PutPart* const joining = PartOf(split, 1);
  split.reset();
  EXPECT_FALSE(MayBeLeft(*joining));
  FinishPart(current, PutResult::kAcked);
  EXPECT_TRUE(MayBeLeft(*joining));
  observer.current = {0, 1};
  EXPECT_FALSE(MayBeLeft(*joining)) << "it has joined";
  EXPECT_FALSE(batch.done.ready());

  joining->left = true;
  LeavePart(joining);
  ASSERT_TRUE(batch.done.ready());
  EXPECT_EQ(batch.results[0], PutResult::kUnavailable);
  EXPECT_EQ(observer.parts, 2);
  EXPECT_EQ(observer.ended, 0) << "the server has not answered";
  FinishPart(joining);
  EXPECT_EQ(observer.parts, 2);
  EXPECT_EQ(observer.ended, 1);
}

TEST(PutEras, AnEraIsReachedOnceAllEarlierPutsHaveEnded) {
  PutEras eras;
  EXPECT_TRUE(eras.Reached(eras.Turn())) << "nothing is under way";
  const auto first = eras.Begin();
  const auto second = eras.Begin();
  const auto turned = eras.Turn();
  EXPECT_NE(turned, first);
  const auto later = eras.Begin();
  EXPECT_EQ(later, turned);
  eras.End(second);
  EXPECT_FALSE(eras.Reached(turned));
  EXPECT_FALSE(eras.End(later)) << "a later Put does not matter";
  EXPECT_FALSE(eras.Reached(turned));
  EXPECT_TRUE(eras.End(first));
  EXPECT_TRUE(eras.Reached(turned));
}

TEST(PutEras, ErasMayOverlapAndEndInAnyOrder) {
  PutEras eras;
  const auto first = eras.Begin();
  const auto one = eras.Turn();
  const auto second = eras.Begin();
  const auto two = eras.Turn();
  eras.End(second);
  EXPECT_FALSE(eras.Reached(one));
  EXPECT_FALSE(eras.Reached(two));
  eras.End(first);
  EXPECT_TRUE(eras.Reached(one));
  EXPECT_TRUE(eras.Reached(two));
}

}  // namespace
}  // namespace farswap::remote
