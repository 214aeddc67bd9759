// What a Cluster makes of servers and networks that fail: every call is answered once, in time.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "remote/cluster.h"
#include "remote_borrowers.h"
#include "remote_chaos_proxy.h"
#include "remote_fake_store.h"

namespace farswap::remote {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using tier::GetResult;
using tier::kShardSlots;
using tier::PutResult;

constexpr milliseconds kShort{100};  // a wait that ends

class FaultTest : public ::testing::Test {
 protected:
  // Destroys the cluster first: it must end in any state of the network.
  void TearDown() override { cluster_.reset(); }

  void Connect(milliseconds fetch_wait = kHangGuard, milliseconds put_wait = kHangGuard) {
    ClusterConfig config = TestConfig({proxy_.address()});
    config.fetch_wait = fetch_wait;
    config.put_wait = put_wait;
    cluster_ = NewCluster(config);
    ASSERT_TRUE(Connected(*cluster_));
  }

  FakeStore store_;
  ChaosProxy proxy_{store_.port()};
  std::unique_ptr<Cluster> cluster_;
};

TEST_F(FaultTest, FetchSurvivesARestartOfItsServer) {
  Connect();
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  store_.Stop();
  ASSERT_TRUE(Eventually([&] { return !cluster_->Servers()[0].connected(); }));
  EXPECT_FALSE(cluster_->Writable());
  std::vector<std::unique_ptr<TestFetch>> fetches;
  for (int i = 0; i < 100; ++i) {
    fetches.push_back(std::make_unique<TestFetch>(0));
    Get(*cluster_, *fetches.back());
  }
  store_.Start();
  for (const auto& fetch : fetches) {
    ASSERT_TRUE(fetch->done.Wait());
    EXPECT_TRUE(fetch->Holds(0, 1));
  }
  // The pages may be there before the session reports its new connection.
  ASSERT_TRUE(Connected(*cluster_));
  EXPECT_TRUE(cluster_->Writable());
  EXPECT_EQ(cluster_->Servers()[0].disconnected_ms, 0u);
  EXPECT_GE(cluster_->Servers()[0].reconnects, 1u);
}

TEST_F(FaultTest, FetchIsUnavailableOnceFetchWaitHasPassed) {
  Connect(kShort);
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  store_.Stop();
  const auto began = steady_clock::now();
  EXPECT_EQ(GetOne(*cluster_, 0), GetResult::kUnavailable);
  EXPECT_GE(steady_clock::now() - began, kShort);
  store_.Start();
  EXPECT_TRUE(Eventually([&] { return Holds(*cluster_, 0, 1); }));
}

TEST_F(FaultTest, FetchFromAHungServerIsUnavailableInTime) {
  Connect(kShort);
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  proxy_.Stall(true);
  TestFetch fetch(0);
  Get(*cluster_, fetch);
  ASSERT_TRUE(fetch.done.Wait());
  EXPECT_EQ(fetch.answered[0].result, GetResult::kUnavailable);
  proxy_.Stall(false);
  // The late answer to the first one must not be taken for this one's.
  EXPECT_TRUE(Eventually([&] {
    TestFetch missing(1);
    Get(*cluster_, missing);
    EXPECT_TRUE(missing.done.Wait());
    EXPECT_NE(missing.answered[0].result, GetResult::kFound);
    return missing.answered[0].result == GetResult::kNotFound;
  }));
}

TEST_F(FaultTest, PutToAHungServerIsUnavailableInTime) {
  Connect(kHangGuard, kShort);
  ASSERT_TRUE(Eventually([&] { return PutOne(*cluster_, 0, 1) == PutResult::kAcked; }));
  proxy_.Stall(true);
  const auto began = steady_clock::now();
  std::vector<std::unique_ptr<TestBatch>> batches;
  for (int i = 0; i < 20; ++i) {
    batches.push_back(std::make_unique<TestBatch>());
    for (tier::SlotIndex slot = 0; slot < 256; ++slot) batches.back()->Add(slot, 2);
    Put(*cluster_, *batches.back());
  }
  for (const auto& batch : batches) {
    ASSERT_TRUE(batch->done.Wait());
    EXPECT_EQ(batch->results[0], PutResult::kUnavailable);
  }
  EXPECT_GE(steady_clock::now() - began, kShort);
  proxy_.Stall(false);
  EXPECT_TRUE(Eventually([&] { return PutOne(*cluster_, 0, 3) == PutResult::kAcked; }));
}

TEST_F(FaultTest, HungServerIsFoundOutWhileNothingIsUnderWay) {
  store_.Tell([](FakeStore::Script* script) { script->lease = milliseconds(500); });
  Connect();
  ASSERT_TRUE(Eventually([&] { return store_.seen().heartbeats > 0; }));
  proxy_.Stall(true);
  EXPECT_TRUE(Eventually([&] { return !cluster_->Writable(); }));
  EXPECT_FALSE(cluster_->Servers()[0].connected());
  EXPECT_NE(cluster_->Servers()[0].last_error, "");
  proxy_.Stall(false);
  EXPECT_TRUE(Connected(*cluster_));
}

TEST_F(FaultTest, PutToAServerLongAwayFailsAtOnceAndSparesTheOthersPages) {
  FakeStore other;
  ClusterConfig config = TestConfig({store_.address(), other.address()});
  config.outage_wait = kShort / 2;
  cluster_ = NewCluster(config);
  ASSERT_TRUE(Connected(*cluster_, 0) && Connected(*cluster_, 1));
  tier::SlotIndex there = 0;
  while (PutOne(*cluster_, there, 1) == PutResult::kAcked &&
         ServerOf(*cluster_, there) != store_.address()) {
    there += kShardSlots;
  }
  store_.Stop();
  ASSERT_TRUE(Eventually([&] { return cluster_->Servers()[0].disconnected_ms > 100; }));
  const tier::SlotIndex elsewhere = 200 * kShardSlots;
  TestBatch batch;
  batch.Add(there, 2).Add(elsewhere, 1);
  Put(*cluster_, batch);
  ASSERT_TRUE(batch.done.Wait());
  EXPECT_EQ(batch.results[0], PutResult::kUnavailable);
  EXPECT_EQ(batch.results[1], PutResult::kAcked);
  EXPECT_TRUE(cluster_->Writable());
  store_.Start();
  EXPECT_TRUE(Eventually([&] { return PutOne(*cluster_, there, 2) == PutResult::kAcked; }));
}

TEST_F(FaultTest, ServerThatWasAwayAtStartIsUsedOnceItComes) {
  const int port = store_.port();
  store_.Stop();
  ClusterConfig config = TestConfig({"127.0.0.1:" + std::to_string(port)});
  cluster_ = NewCluster(config);
  EXPECT_TRUE(Eventually([&] { return !cluster_->Servers()[0].last_error.empty(); }));
  EXPECT_FALSE(cluster_->Writable());
  EXPECT_EQ(PutOne(*cluster_, 0, 1), PutResult::kUnavailable) << "no place for the shard";
  store_.Start();
  ASSERT_TRUE(Connected(*cluster_));
  EXPECT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  EXPECT_EQ(cluster_->Servers()[0].reconnects, 0u);
}

TEST_F(FaultTest, HalfClosedConnectionIsReplaced) {
  Connect();
  ASSERT_EQ(PutOne(*cluster_, 0, 1), PutResult::kAcked);
  proxy_.HalfClose();
  EXPECT_TRUE(Holds(*cluster_, 0, 1));
}

TEST_F(FaultTest, SlowNetworkIsNoFault) {
  Connect();
  proxy_.Delay(milliseconds(50));
  std::vector<std::unique_ptr<TestBatch>> batches;
  for (int i = 0; i < 20; ++i) {
    batches.push_back(std::make_unique<TestBatch>());
    batches.back()->Add(static_cast<tier::SlotIndex>(i), 1);
    Put(*cluster_, *batches.back());
  }
  for (const auto& batch : batches) {
    ASSERT_TRUE(batch->done.Wait());
    EXPECT_EQ(batch->results[0], PutResult::kAcked);
  }
  EXPECT_TRUE(Holds(*cluster_, 19, 1));
  EXPECT_EQ(cluster_->Servers()[0].reconnects, 0u);
}

TEST_F(FaultTest, OpenVolumeThatIsNotAnsweredIsGivenUpAndTriedAgain) {
  store_.Tell([](FakeStore::Script* script) { script->hold_call = true; });
  ClusterConfig config = TestConfig({store_.address()});
  config.open_wait = kShort;
  cluster_ = NewCluster(config);
  ASSERT_TRUE(Eventually([&] { return cluster_->Servers()[0].last_error.ends_with("no answer"); }));
  EXPECT_TRUE(Connected(*cluster_));
}

TEST_F(FaultTest, StopDuringAConnectionAttemptDoesNotWaitForIt) {
  ClusterConfig config = TestConfig({proxy_.address()});
  config.open_wait = 2 * kHangGuard;
  cluster_ = NewCluster(config);
  ASSERT_TRUE(Connected(*cluster_));
  proxy_.Stall(true);
  proxy_.Cut();
  ASSERT_TRUE(Eventually([&] { return !cluster_->Servers()[0].connected(); }));
  const auto began = steady_clock::now();
  cluster_->Stop();
  EXPECT_LT(steady_clock::now() - began, kHangGuard);
}

constexpr tier::SlotIndex kWorkSlots = 64;

// How often anything was answered, for who is to be as fast as that.
class Answers {
 public:
  void Count() {
    ++count_;
    count_.notify_all();
  }
  void AwaitMore(std::uint64_t more) {
    const std::uint64_t enough = count_ + more;
    for (std::uint64_t now = count_; now < enough && !over_; now = count_) count_.wait(now);
  }
  bool over() const { return over_; }
  void End() {
    over_ = true;
    Count();
  }

 private:
  std::atomic<std::uint64_t> count_{0};
  std::atomic<bool> over_{false};
};

// Whether all its pages were kept. A batch may end kUnavailable when reconnecting takes long, at
// once if it has taken long already.
bool AllAcked(const TestBatch& batch) {
  const auto end = batch.results.begin() + static_cast<std::ptrdiff_t>(batch.count);
  return std::all_of(batch.results.begin(), end, [](PutResult result) {
    EXPECT_TRUE(result == PutResult::kAcked || result == PutResult::kUnavailable);
    return result == PutResult::kAcked;
  });
}

std::unique_ptr<TestBatch> BatchOf(tier::SlotIndex base, tier::Version version) {
  auto batch = std::make_unique<TestBatch>();
  for (tier::SlotIndex slot = 0; slot < kWorkSlots; ++slot) batch->Add(base + slot, version);
  return batch;
}

// Fetches random slots at once; each holds a version between `least` (0: perhaps none) and `most`.
void FetchSome(Cluster& cluster, tier::SlotIndex base, tier::Version least, tier::Version most,
               std::mt19937* random, Answers* answers) {
  std::vector<std::unique_ptr<TestFetch>> fetches;
  for (int i = 0; i < 16; ++i) {
    fetches.push_back(std::make_unique<TestFetch>());
    for (std::size_t n = 1 + (*random)() % 8; n > 0; --n) {
      fetches.back()->Add(base + (*random)() % kWorkSlots);
    }
    Get(cluster, *fetches.back());
  }
  for (const auto& fetch : fetches) {
    ASSERT_TRUE(fetch->done.Wait());
    answers->Count();
    for (std::size_t i = 0; i < fetch->count; ++i) {
      const auto& page = fetch->answered[i];
      if (least == 0 && page.result == GetResult::kNotFound) continue;
      ASSERT_EQ(page.result, GetResult::kFound);
      EXPECT_GE(page.object.version, least);
      EXPECT_LE(page.object.version, most);
      EXPECT_TRUE(fetch->Holds(i, page.object.version));
    }
  }
}

// One thread's share of the work under random cuts. Each owns its slots, so it knows their content.
void WorkUnderCuts(Cluster& cluster, unsigned seed, Answers* answers) {
  const tier::SlotIndex base = seed * kShardSlots;
  std::mt19937 random(seed);
  for (tier::Version version = 1; version <= 60; ++version) {
    std::unique_ptr<TestBatch> batch = BatchOf(base, version);
    Put(cluster, *batch);
    FetchSome(cluster, base, version - 1, version, &random, answers);
    ASSERT_TRUE(batch->done.Wait());
    ASSERT_TRUE(Eventually([&] {
      if (AllAcked(*batch)) return true;
      batch = BatchOf(base, version);
      Put(cluster, *batch);
      EXPECT_TRUE(batch->done.Wait());
      return AllAcked(*batch);
    }));
    FetchSome(cluster, base, version, version, &random, answers);
  }
}

TEST_F(FaultTest, EverythingIsAnsweredOnceAndRightUnderRandomCuts) {
  Connect();
  Answers answers;
  std::thread cutter([&] {
    std::mt19937 random(7);
    while (!answers.over()) {
      // Most cuts come when so much was answered since the last one, however long that takes: cuts
      // that always come before it has connected again would let nothing be answered at all.
      if (random() % 4 == 0) {
        std::this_thread::sleep_for(milliseconds(random() % 1000));
      } else {
        answers.AwaitMore(1 + random() % 800);
      }
      random() % 8 == 0 ? proxy_.HalfClose() : proxy_.Cut();
    }
  });
  std::vector<std::thread> workers;
  for (unsigned seed = 0; seed < 3; ++seed) {
    workers.emplace_back([&, seed] { WorkUnderCuts(*cluster_, seed, &answers); });
  }
  for (std::thread& worker : workers) worker.join();
  answers.End();
  cutter.join();
  EXPECT_GE(cluster_->Servers()[0].reconnects, 1u);
}

TEST_F(FaultTest, StopUnderCutsAnswersEverything) {
  // A volume that could not be closed is the next cluster's when the lease is over.
  store_.Tell([](FakeStore::Script* script) { script->lease = milliseconds(100); });
  for (tier::Version round = 1; round <= 10; ++round) {
    Connect();
    ASSERT_EQ(PutOne(*cluster_, 0, round), PutResult::kAcked);
    std::vector<std::unique_ptr<TestFetch>> fetches;
    std::vector<std::unique_ptr<TestBatch>> batches;
    for (int i = 0; i < 200; ++i) {
      if (i == 100) proxy_.Cut();
      fetches.push_back(std::make_unique<TestFetch>(0));
      Get(*cluster_, *fetches.back());
      batches.push_back(std::make_unique<TestBatch>());
      batches.back()->Add(static_cast<tier::SlotIndex>(i), round + 1);
      Put(*cluster_, *batches.back());
    }
    cluster_.reset();
    for (const auto& fetch : fetches) EXPECT_TRUE(fetch->done.ready());
    for (const auto& batch : batches) EXPECT_TRUE(batch->done.ready());
  }
}

}  // namespace
}  // namespace farswap::remote
