// A connection whose process is killed at any instruction, and its successors on the same socket:
// every request is answered once, and every page is right.
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/file_descriptor.h"
#include "base/step.h"
#include "hang_guard.h"
#include "made_ring.h"
#include "nbd/ring_socket.h"
#include "nbd_takeover_world.h"
#include "nbd_verifying_client.h"
#include "sanitized.h"
#include "surviving.h"
#include "tier/state.h"

namespace farswap::nbd {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

/// More by FARSWAP_TAKEOVER_KILLS.
int Kills() {
  const char* const asked = std::getenv("FARSWAP_TAKEOVER_KILLS");
  if (asked != nullptr) return std::atoi(asked);
  return kSanitized ? 30 : 500;
}

class Takeover : public ::testing::Test {
 protected:
  static constexpr std::size_t kDepth = 48;
  static constexpr std::size_t kWorkers = 3;

  void SetUp() override {
    state_ = OfSurvivingKind([](MemoryKind kind) {
      return tier::State::Create(tier::kCrashSlots, tier::kCrashPoolBytes, kind);
    });
    memory_ = OfSurvivingKind(
        [](MemoryKind kind) { return Memory::Create(sizeof(TakeoverWorld), "test", kind); });
    if (!state_ || !memory_) GTEST_SKIP() << "no memory outlives a process here";
    world_ = reinterpret_cast<TakeoverWorld*>(memory_->data());
    world_->liveness.Init();
    const auto* const connection = ConnectionState::Begin(
        {reinterpret_cast<std::byte*>(&world_->connection), sizeof(ConnectionState)}, {});
    ASSERT_EQ(connection, &world_->connection);
    for (const Memory* memory : {&state_->memory(), memory_.get()}) {
      const Memory::Handle& handle = memory->handle();
      arguments_.push_back(std::to_string(static_cast<int>(handle.kind)));
      arguments_.push_back(std::to_string(
          handle.kind == MemoryKind::kSysv ? handle.number : Inherited(handle.number)));
    }
    arguments_.push_back(std::to_string(Inherited(client_.server_end())));
    close(client_.server_end());
  }
  void TearDown() override {
    for (const pid_t worker : workers_) {
      kill(worker, SIGKILL);
      waitpid(worker, nullptr, 0);
    }
    if (memory_) memory_->Remove();
    if (state_) state_->memory().Remove();
  }

  /// Its number in the workers.
  int Inherited(int descriptor) {
    inherited_.emplace_back(dup(descriptor));
    return inherited_.back().get();
  }
  void UseRing() {
    const FileDescriptor ring = MadeRing(&world_->ring);
    if (!ring.open()) GTEST_SKIP() << "io_uring: " << std::strerror(errno);
    arguments_.push_back(std::to_string(Inherited(ring.get())));
  }
  void UseNoRing() { arguments_.emplace_back("-1"); }

  void Spawn(std::vector<std::string> more = {}) {
    std::vector<char*> argv{const_cast<char*>(NBD_TAKEOVER_WORKER)};
    for (std::string& argument : arguments_) argv.push_back(argument.data());
    for (std::string& argument : more) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_t worker = 0;
    ASSERT_EQ(posix_spawn(&worker, argv[0], nullptr, nullptr, argv.data(), environ), 0);
    workers_.push_back(worker);
  }
  /// False: it has ended by itself.
  bool AwaitDeath(pid_t worker) {
    int status = 0;
    EXPECT_EQ(waitpid(worker, &status, 0), worker);
    std::erase(workers_, worker);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  }
  bool Kill(pid_t worker) {
    kill(worker, SIGKILL);
    return AwaitDeath(worker);
  }
  /// The one that serves, or one that is about to.
  pid_t Serving() {
    const pid_t serving = world_->serving;
    const bool lives = std::find(workers_.begin(), workers_.end(), serving) != workers_.end();
    return lives ? serving : workers_.front();
  }

  /// At random moments, a third of the successors within 5 ms, until the client or a worker fails.
  void KillAtRandom(int kills, VerifyingClient* client, milliseconds patience) {
    std::mt19937_64 random(11);
    while (workers_.size() < kWorkers) Spawn();
    for (int i = 0; i < kills && !HasFailure(); ++i) {
      if (!client->AwaitReplyAfter(client->replies(), patience)) return client->Fail("it hangs");
      std::this_thread::sleep_for(microseconds(random() % 20000));
      client->TakeLongestGap();
      ++deaths_;
      if (!Kill(Serving())) return client->Fail("a worker has ended");
      const bool twice = i % 3 == 2;
      if (twice) {
        std::this_thread::sleep_for(microseconds(random() % 5000));
        if (!Kill(Serving())) return client->Fail("a worker has ended");
      }
      if (!client->AwaitReplyAfter(client->replies(), patience)) return client->Fail("it hangs");
      (twice ? gaps_of_two_ : gaps_).push_back(client->TakeLongestGap());
      while (workers_.size() < kWorkers && !HasFailure()) Spawn();
    }
  }
  static void Report(const char* what, std::vector<std::chrono::nanoseconds> gaps) {
    if (gaps.empty()) return;
    std::sort(gaps.begin(), gaps.end());
    const auto at = [&](std::size_t percent) {
      return std::chrono::duration<double, std::milli>(gaps[(gaps.size() - 1) * percent / 100])
          .count();
    };
    std::printf("%s: gap between replies p50 %.1f p99 %.1f max %.1f ms\n", what, at(50), at(99),
                at(100));
  }

  std::unique_ptr<tier::State> state_;
  std::unique_ptr<Memory> memory_;
  TakeoverWorld* world_ = nullptr;
  Client client_;
  std::vector<FileDescriptor> inherited_;
  std::vector<std::string> arguments_;
  std::vector<pid_t> workers_;
  int deaths_ = 0;
  std::vector<std::chrono::nanoseconds> gaps_;
  std::vector<std::chrono::nanoseconds> gaps_of_two_;
};

TEST_F(Takeover, AnswersEachRequestOnceHoweverOftenItIsKilled) {
  UseRing();
  if (IsSkipped()) return;
  VerifyingClient client(client_.socket(), kPoisonedSlot, kDepth);
  KillAtRandom(Kills(), &client, 2 * kHangGuard);
  client.End();
  EXPECT_EQ(client.failure(), "");
  Report("one death", gaps_);
  Report("two deaths", gaps_of_two_);
  const TakeoverCounts& counts = world_->counts;
  std::printf(
      "%llu replies, %llu takeovers; died with positions not written %llu, received bytes %llu, "
      "replies ready %llu, partly sent %llu, parked reads %llu, parked writes %llu, half a write "
      "%llu\n",
      static_cast<unsigned long long>(client.replies()),
      static_cast<unsigned long long>(counts.takeovers.load()),
      static_cast<unsigned long long>(counts.behind.load()),
      static_cast<unsigned long long>(counts.received.load()),
      static_cast<unsigned long long>(counts.ready.load()),
      static_cast<unsigned long long>(counts.partly_sent.load()),
      static_cast<unsigned long long>(counts.parked_reads.load()),
      static_cast<unsigned long long>(counts.parked_writes.load()),
      static_cast<unsigned long long>(counts.half_writes.load()));
}

TEST_F(Takeover, AnswersEachRequestOnceIfItDiesAtAnyStep) {
  UseRing();
  if (IsSkipped()) return;
  VerifyingClient client(client_.socket(), kPoisonedSlot, kDepth);
  std::mt19937_64 random(12);
  const auto spawn = [&](int step) {
    Spawn({std::to_string(step), std::to_string(1 + random() % 40)});
  };
  constexpr int kFirst = static_cast<int>(kFirstConnectionStep);
  constexpr int kSteps = static_cast<int>(Step::kCount) - kFirst;
  spawn(kFirst);
  for (int i = 1; i <= (kSanitized ? 1 : 12) * kSteps && client.failure().empty(); ++i) {
    spawn(kFirst + i % kSteps);
    SCOPED_TRACE("step " + std::to_string(kFirst + (i - 1) % kSteps));
    EXPECT_TRUE(AwaitDeath(workers_.front()));
  }
  Kill(workers_.front());
  Spawn();
  client.End();
  EXPECT_EQ(client.failure(), "");
}

TEST_F(Takeover, AnswersARequestThatEndsThreeWorkersWithAnErrorAndAllOthers) {
  UseRing();
  if (IsSkipped()) return;
  world_->poisoned = true;
  constexpr auto kPage = static_cast<std::uint32_t>(tier::kPageBytes);
  Bytes batch = RequestBytes(Command::kWrite, 1, 0, kPage);
  Append(batch, RandomBytes(kPage, 1));
  Append(batch, RequestBytes(Command::kRead, 2, 0, kPage));
  Append(batch, RequestBytes(Command::kRead, 3, kPoisonedSlot * tier::kPageBytes, kPage));
  Append(batch, RequestBytes(Command::kRead, 4, 0, kPage));
  client_.Send(batch);
  for (int i = 0; i < 3; ++i) {
    Spawn();
    EXPECT_TRUE(AwaitDeath(workers_.front()));
  }
  Spawn();
  EXPECT_EQ(client_.ReceiveReply().error, 0u);
  for (std::uint64_t cookie = 2; cookie <= 4; ++cookie) {
    const Client::Reply reply = client_.ReceiveReply();
    EXPECT_EQ(reply.cookie, cookie);
    EXPECT_EQ(reply.error, cookie == 3 ? static_cast<std::uint32_t>(WireError::kIo) : 0u);
    if (cookie == 3) continue;
    EXPECT_EQ(client_.Receive(kPage), RandomBytes(kPage, 1));
  }
}

// The test sees what is lost when positions are written after the system call.
TEST_F(Takeover, WithoutARingFailsWithinTwentyDeaths) {
  UseNoRing();
  Spawn({std::to_string(static_cast<int>(Step::kEntered)), "20"});
  VerifyingClient client(client_.socket(), kPoisonedSlot, kDepth);
  EXPECT_TRUE(AwaitDeath(workers_.front()));
  KillAtRandom(20, &client, milliseconds{5000});
  client.End();
  EXPECT_NE(client.failure(), "");
  std::printf("%s, at death %d\n", client.failure().c_str(), deaths_);
}

}  // namespace
}  // namespace farswap::nbd
