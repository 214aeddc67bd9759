// Threads of a completion queue that serve requests in turn.
#include <grpc/support/time.h>
#include <grpcpp/alarm.h>
#include <grpcpp/completion_queue.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "rpc/completion_threads.h"
#include "store/turns.h"
#include "waiter.h"

namespace farswap::store {
namespace {

class TurnsTest : public ::testing::Test {
 protected:
  // A request that arrives as an operation of gRPC does. Served when the gate is open.
  struct Request final : rpc::Completion, FairQueue::Job {
    Request(TurnsTest* of_test, std::uint64_t of_volume) : test(of_test), volume(of_volume) {}
    void OnCompleted(bool /*ok*/) override {
      test->turns_.waiting.Add(volume, FairQueue::kQuantumBytes, this);
    }
    void Serve() override { test->OnServe(volume); }

    TurnsTest* test;
    std::uint64_t volume;
    grpc::Alarm alarm;
  };

  void Start(std::size_t threads) {
    threads_ = std::make_unique<rpc::CompletionThreads>(
        std::make_unique<grpc::CompletionQueue>(), "test", threads, [] {}, &turns_);
  }

  void Arrive(std::uint64_t volume, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      Request& request = requests_.emplace_back(this, volume);
      request.alarm.Set(threads_->queue(), gpr_inf_past(GPR_CLOCK_MONOTONIC),
                        threads_->Tag(&request));
    }
  }

  void OnServe(std::uint64_t volume) {
    std::unique_lock lock(mutex_);
    served_.push_back(volume);
    gate_.wait(lock, [this] { return open_; });
  }

  void Open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    gate_.notify_all();
  }

  bool ServedReaches(std::size_t count) {
    return Eventually([&] {
      const std::lock_guard lock(mutex_);
      return served_.size() >= count;
    });
  }

  Turns turns_;
  std::mutex mutex_;
  std::condition_variable gate_;
  bool open_ = false;
  std::vector<std::uint64_t> served_;
  std::deque<Request> requests_;
  std::unique_ptr<rpc::CompletionThreads> threads_;
};

TEST_F(TurnsTest, RequestThatArrivedLastPassesThoseOfAVolumeWithMany) {
  turns_.streams = 2;
  Start(1);
  Arrive(1, 1);
  ASSERT_TRUE(ServedReaches(1));
  Arrive(1, 40);
  Arrive(2, 1);
  Open();
  ASSERT_TRUE(ServedReaches(42));
  EXPECT_TRUE(served_[1] == 2 || served_[2] == 2);
}

TEST_F(TurnsTest, RequestsOfASingleStreamAreServedAsTheyArrive) {
  turns_.streams = 1;
  Start(1);
  Arrive(1, 1);
  ASSERT_TRUE(ServedReaches(1));
  Arrive(1, 3);
  Arrive(2, 1);
  Open();
  ASSERT_TRUE(ServedReaches(5));
  EXPECT_EQ(served_, (std::vector<std::uint64_t>{1, 1, 1, 1, 2}));
}

TEST_F(TurnsTest, AllThreadsServeAtATime) {
  turns_.streams = 2;
  Start(4);
  Arrive(1, 2);
  Arrive(2, 2);
  EXPECT_TRUE(ServedReaches(4)) << "none ends before the gate is open";
  Arrive(1, 10);
  Open();
  EXPECT_TRUE(ServedReaches(14));
}

}  // namespace
}  // namespace farswap::store
