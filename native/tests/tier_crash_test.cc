// A tier whose process is killed at any instruction, and its successor on the same memory: every
// page is there, at the version that was answered, and all of it is accounted for.
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/file_descriptor.h"
#include "base/step.h"
#include "hang_guard.h"
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
    for (const Memory* memory : std::array<const Memory*, 2>{&state_->memory(), world_.get()}) {
      const Memory::Handle& handle = memory->handle();
      // Inherited by the worker.
      const int number = handle.kind == MemoryKind::kSysv ? handle.number : dup(handle.number);
      if (handle.kind != MemoryKind::kSysv) inherited_.emplace_back(number);
      arguments_.push_back(std::to_string(static_cast<int>(handle.kind)));
      arguments_.push_back(std::to_string(number));
    }
  }
  void TearDown() override {
    if (world_) world_->Remove();
    if (state_) state_->memory().Remove();
  }

  void DieAt(Step step, int count) {
    arguments_.push_back(std::to_string(static_cast<int>(step)));
    arguments_.push_back(std::to_string(count));
    Spawn();
    arguments_.resize(arguments_.size() - 2);
    WaitUntilDead();
  }
  void Spawn() {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    output_ = FileDescriptor(ends[0]);
    const FileDescriptor input(ends[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input.get(), STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, output_.get());
    std::vector<char*> argv{const_cast<char*>(TIER_CRASH_WORKER)};
    for (std::string& argument : arguments_) argv.push_back(argument.data());
    argv.push_back(nullptr);
    ASSERT_EQ(posix_spawn(&worker_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  // The worker has verified all pages.
  void WaitUntilVerified() {
    char line;
    ASSERT_EQ(read(output_.get(), &line, 1), 1) << "the worker has ended";
  }
  // Also the worker's own way to end.
  void WaitUntilDead() {
    int status = 0;
    ASSERT_EQ(waitpid(worker_, &status, 0), worker_);
    ASSERT_FALSE(WIFEXITED(status)) << "the worker ended, with " << WEXITSTATUS(status);
    ASSERT_EQ(WTERMSIG(status), SIGKILL) << "the worker did not come to the step";
  }
  void Kill() {
    kill(worker_, SIGKILL);
    WaitUntilDead();
  }

  std::unique_ptr<State> state_;
  std::unique_ptr<Memory> world_;
  std::vector<FileDescriptor> inherited_;
  std::vector<std::string> arguments_;
  FileDescriptor output_;
  pid_t worker_ = 0;
};

TEST_F(TierCrash, LosesNoPageHoweverOftenItIsKilled) {
  std::mt19937_64 random(7);
  const int kills = kSanitized ? 20 : 150;
  for (int i = 0; i < kills && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    Spawn();
    // Every third one dies while it recovers or verifies.
    if (i % 3 != 2) WaitUntilVerified();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
    Kill();
  }
  Spawn();
  WaitUntilVerified();
  Kill();
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
  Spawn();
  WaitUntilVerified();
  Kill();
}

}  // namespace
}  // namespace farswap::tier
