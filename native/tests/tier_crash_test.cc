// A tier whose process is killed at any instruction, and its successor on the same memory: every
// page is there, at the version that was answered, and all of it is accounted for.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "base/step.h"
#include "killed_worker.h"
#include "sanitized.h"
#include "surviving.h"
#include "tier/state.h"
#include "tier_crash_world.h"

namespace farswap::tier {
namespace {

class TierCrash : public ::testing::Test {
 protected:
  void SetUp() override {
    state_ = OfSurvivingKind(
        [](MemoryKind kind) { return State::Create(kCrashSlots, kCrashPoolBytes, kind); });
    world_ = OfSurvivingKind(
        [](MemoryKind kind) { return Memory::Create(sizeof(CrashWorld), "test", kind); });
    if (!state_ || !world_) GTEST_SKIP() << "no memory outlives a process here";
    worker_.Inherit(state_->memory());
    worker_.Inherit(*world_);
  }
  void TearDown() override {
    if (world_) world_->Remove();
    if (state_) state_->memory().Remove();
  }

  void DieAt(Step step, int count) {
    worker_.Spawn({std::to_string(static_cast<int>(step)), std::to_string(count)});
    worker_.WaitUntilDead();
  }

  std::unique_ptr<State> state_;
  std::unique_ptr<Memory> world_;
  KilledWorker worker_{TIER_CRASH_WORKER};
};

TEST_F(TierCrash, LosesNoPageHoweverOftenItIsKilled) {
  std::mt19937_64 random(7);
  const int kills = kSanitized ? 20 : 150;
  for (int i = 0; i < kills && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    worker_.Spawn();
    // Every third one dies while it recovers or verifies.
    if (i % 3 != 2) worker_.WaitUntilVerified();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
    worker_.Kill();
  }
  worker_.Spawn();
  worker_.WaitUntilVerified();
  worker_.Kill();
}

// Some are taken by recovery, the others at work.
TEST_F(TierCrash, LosesNoPageAtAnyStep) {
  std::mt19937_64 random(8);
  for (int step = 0; step <= static_cast<int>(kLastTierStep) && !HasFailure(); ++step) {
    for (int i = 0; i < (kSanitized ? 1 : 6) && !HasFailure(); ++i) {
      SCOPED_TRACE("step " + std::to_string(step) + ", death " + std::to_string(i));
      const bool recovers = step >= static_cast<int>(Step::kRecovered);
      if (recovers) DieAt(Step::kTaken, 5);  // leaves a page to be recovered
      DieAt(static_cast<Step>(step), recovers ? 1 : 1 + static_cast<int>(random() % 20));
    }
  }
  worker_.Spawn();
  worker_.WaitUntilVerified();
  worker_.Kill();
}

}  // namespace
}  // namespace farswap::tier
