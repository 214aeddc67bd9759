// Fetches of pages with two replicas, of which one is slow.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <memory>
#include <random>
#include <vector>

#include "remote/fetch_times.h"
#include "remote/hedging.h"
#include "remote_borrowers.h"
#include "remote_fake_store.h"

namespace farswap::remote {
namespace {

using std::chrono::milliseconds;
using tier::PutResult;

TEST(Hedging, OneOfTwentyFetchesOfTenSecondsMayMoveOn) {
  Hedging hedging;
  TimePoint now{std::chrono::hours(1)};
  for (int i = 0; i < 19; ++i) hedging.NoteFetch(now);
  EXPECT_FALSE(hedging.Take(now));
  hedging.NoteFetch(now);
  EXPECT_TRUE(hedging.Take(now));
  EXPECT_FALSE(hedging.Take(now));
  now += std::chrono::seconds(10);
  for (int i = 0; i < 19; ++i) hedging.NoteFetch(now);
  EXPECT_FALSE(hedging.Take(now)) << "the earlier ones still count";
  hedging.NoteFetch(now);
  EXPECT_TRUE(hedging.Take(now));
  now += std::chrono::seconds(12);
  EXPECT_FALSE(hedging.Take(now)) << "they count no more";
}

TEST(Hedging, TheDelayIsWhatOneOfAHundredFetchesExceeds) {
  Hedging hedging;
  std::mt19937 random(1);
  const auto exceeding = [&](int fetches) {
    int exceed = 0;
    for (int i = 0; i < fetches; ++i) {
      const std::chrono::microseconds took(std::uniform_int_distribution(0, 50'000)(random));
      exceed += took > hedging.delay() ? 1 : 0;
      hedging.NoteAnswer(took);
    }
    return exceed;
  };
  exceeding(10'000);
  const int exceed = exceeding(10'000);
  EXPECT_GT(exceed, 50);
  EXPECT_LT(exceed, 200);
  for (int i = 0; i < 10'000; ++i) hedging.NoteAnswer(std::chrono::microseconds(100));
  EXPECT_EQ(hedging.delay(), Hedging::kDelayMin);
}

TEST(FetchTimes, NinetyNineOfAHundredRecentFetchesTookNoLonger) {
  using std::chrono::microseconds;
  FetchTimes times;
  TimePoint now{std::chrono::hours(1)};
  for (int i = 0; i < 198; ++i) times.Note(microseconds(1000), now);
  times.Note(microseconds(50'000), now);
  EXPECT_EQ(times.Percentile99(now), microseconds(0)) << "too few";
  times.Note(microseconds(50'000), now);
  EXPECT_GT(times.Percentile99(now), microseconds(1000));
  EXPECT_LE(times.Percentile99(now), microseconds(1250));
  now += FetchTimes::kWindow;
  times.Note(microseconds(50'000), now);
  EXPECT_GT(times.Percentile99(now), microseconds(50'000)) << "three of 201";
  EXPECT_LE(times.Percentile99(now), microseconds(62'500));
  now += FetchTimes::kWindow;
  for (int i = 0; i < 400; ++i) times.Note(microseconds(0), now);
  EXPECT_EQ(times.Percentile99(now), microseconds(1));
  now += 2 * FetchTimes::kWindow;
  EXPECT_EQ(times.Percentile99(now), microseconds(0)) << "none is recent";
}

class SlowReplicaTest : public ::testing::Test {
 protected:
  void Connect(milliseconds outage_wait) {
    ClusterConfig config = TestConfig({stores_[0].address(), stores_[1].address()});
    config.replicas = 2;
    config.outage_wait = outage_wait;
    for (FakeStore& store : stores_) {
      store.Tell([](FakeStore::Script* script) { script->lease = milliseconds(250); });
    }
    cluster_ = NewCluster(config);
    for (std::size_t i = 0; i < 2; ++i) ASSERT_TRUE(Connected(*cluster_, i));
    ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
    const bool swapped = cluster_->ReplicasOf(0)[0].address != stores_[0].address();
    first_ = &stores_[swapped ? 1 : 0];
    other_ = &stores_[swapped ? 0 : 1];
  }
  void TearDown() override { cluster_.reset(); }

  static void Hold(FakeStore* store, bool hold) {
    store->Tell([hold](FakeStore::Script* script) { script->hold_gets = hold; });
  }
  void Send(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      fetches_.push_back(std::make_unique<TestFetch>(0));
      Get(*cluster_, *fetches_.back());
    }
  }
  void ExpectAll() {
    for (const auto& fetch : fetches_) {
      ASSERT_TRUE(fetch->done.Wait());
      EXPECT_TRUE(fetch->Holds(0, 1));
    }
  }
  std::size_t Done() {
    std::size_t done = 0;
    for (const auto& fetch : fetches_) done += fetch->done.ready() ? 1 : 0;
    return done;
  }

  std::array<FakeStore, 2> stores_;
  FakeStore* first_ = nullptr;  // shard 0 begins with it
  FakeStore* other_ = nullptr;
  std::vector<std::unique_ptr<TestFetch>> fetches_;
  std::unique_ptr<Cluster> cluster_;
};

TEST_F(SlowReplicaTest, AFewFetchesThatTakeLongMoveOn) {
  Connect(2 * kHangGuard);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(Holds(*cluster_, 0, 1));
  Hold(first_, true);
  Send(20);
  // 120 fetches allow 6, if the beginning is less than 10 s ago.
  ASSERT_TRUE(Eventually([&] { return Done() > 0; }));
  const std::uint64_t heartbeats = first_->seen().heartbeats;
  ASSERT_TRUE(Eventually([&] { return first_->seen().heartbeats >= heartbeats + 8; }));
  EXPECT_LE(Done(), 6u);
  EXPECT_LE(other_->seen().fetches, 6u);
  const std::size_t slow = first_ == &stores_[0] ? 0 : 1;
  EXPECT_EQ(cluster_->Servers()[slow].hedged_fetches, Done());
  EXPECT_EQ(cluster_->Servers()[1 - slow].hedged_fetches, 0u);
  Hold(first_, false);
  ExpectAll();
  EXPECT_TRUE(Holds(*cluster_, 0, 1));
}

TEST_F(SlowReplicaTest, AServerThatAnswersNoFetchIsLeftUntilItDoes) {
  Connect(milliseconds(50));
  Hold(first_, true);
  Send(10);
  ExpectAll();
  EXPECT_EQ(other_->seen().fetches, 10u);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(Holds(*cluster_, 0, 1));
  EXPECT_EQ(other_->seen().fetches, 20u);
  Hold(first_, false);
  ASSERT_TRUE(Eventually([&] { return first_->seen().fetches >= 10; }));
  EXPECT_EQ(first_->seen().fetches, 10u) << "what was sent before it was known to be stalled";
  ASSERT_TRUE(Eventually([&] {
    EXPECT_TRUE(Holds(*cluster_, 0, 1));
    return first_->seen().fetches > 10;
  }));
}

TEST_F(SlowReplicaTest, WithoutAReplicaThatAnswersAFetchWaits) {
  Connect(milliseconds(50));
  for (FakeStore& store : stores_) Hold(&store, true);
  Send(10);
  const std::uint64_t heartbeats = first_->seen().heartbeats;
  ASSERT_TRUE(Eventually([&] { return first_->seen().heartbeats >= heartbeats + 8; }));
  EXPECT_EQ(Done(), 0u);
  Hold(other_, false);
  ExpectAll();
}

// Answers of both come in any order, and after the fetch is gone.
TEST_F(SlowReplicaTest, EachFetchIsAnsweredOnceInAnyOrderOfEvents) {
  std::mt19937 random(7);
  const auto chance = [&](int of) { return std::uniform_int_distribution(1, of)(random) == 1; };
  for (int round = 0; round < 4; ++round) {
    Connect(milliseconds(10));
    for (int i = 0; i < 200; ++i) {
      for (FakeStore& store : stores_) {
        if (chance(4)) Hold(&store, chance(2));
      }
      if (chance(50)) {
        FakeStore& restarted = stores_[chance(2) ? 0 : 1];
        restarted.Stop();
        restarted.Start();
      }
      Send(20);
      if (chance(3)) {
        for (FakeStore& store : stores_) Hold(&store, false);
        fetches_.back()->done.Wait();
      }
    }
    const bool stopped = round % 2 == 1;
    if (stopped) {
      cluster_->Stop();
    } else {
      for (FakeStore& store : stores_) Hold(&store, false);
      ExpectAll();
    }
    EXPECT_EQ(Done(), fetches_.size());
    fetches_.clear();
    cluster_.reset();
    for (FakeStore& store : stores_) Hold(&store, false);
  }
}

}  // namespace
}  // namespace farswap::remote
