// Robust mutexes and threads of a process that dies.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <new>
#include <thread>

#include "base/bits.h"
#include "base/liveness.h"
#include "base/robust_mutex.h"
#include "base/thread.h"

namespace farswap {
namespace {

template <typename T>
T* Shared() {
  void* const memory =
      mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  EXPECT_NE(memory, MAP_FAILED);
  return static_cast<T*>(memory);
}

/// A process that runs `body` and then waits to be killed.
class Process {
 public:
  template <typename Body>
  explicit Process(Body body) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    id_ = fork();
    if (id_ == 0) {
      body();
      if (write(ends[1], "", 1) != 1) _exit(1);
      while (true) pause();
    }
    char ready;
    EXPECT_EQ(read(ends[0], &ready, 1), 1);
    close(ends[0]);
    close(ends[1]);
  }
  ~Process() { Kill(); }
  void Kill() {
    if (id_ == 0) return;
    kill(id_, SIGKILL);
    waitpid(id_, nullptr, 0);
    id_ = 0;
  }

 private:
  pid_t id_ = 0;
};

TEST(RobustMutex, OfADeadOwnerIsTheNextOnes) {
  auto* const mutex = Shared<RobustMutex>();
  mutex->Init();
  Process owner([&] { mutex->Lock(); });
  EXPECT_FALSE(mutex->TryLock());
  owner.Kill();
  EXPECT_TRUE(mutex->Lock()) << "the owner before died";
  mutex->Unlock();
  EXPECT_TRUE(mutex->TryLock());
  mutex->Unlock();
  EXPECT_FALSE(mutex->Lock());
  mutex->Unlock();
}

TEST(Liveness, OfTheNextProcessBeginsWhenNoThreadOfTheDeadOneRuns) {
  auto* const liveness = Shared<Liveness>();
  liveness->Init();
  Process serving([&] {
    liveness->Serve();
    std::atomic<bool> runs{false};
    StartThread("test", [&] {
      runs = true;
      runs.notify_one();
      while (true) pause();
    }).detach();
    runs.wait(false);
  });
  // One mutex is the thread's.
  const std::size_t free = liveness->EnterThread();
  EXPECT_EQ(free, 1u);
  liveness->LeaveThread(free);
  std::atomic<bool> serves{false};
  std::atomic<bool> done{false};
  std::thread next([&] {
    liveness->Serve();
    serves = true;
    serves.notify_one();
    done.wait(false);
  });
  EXPECT_FALSE(serves);
  serving.Kill();
  serves.wait(false);
  EXPECT_EQ(liveness->EnterThread(), 0u);
  RegisterThreads(nullptr);
  done = true;
  done.notify_one();
  next.join();
}

TEST(Bits, KnowTheirNumbersAndTheFirstThatIsFree) {
  Bits<128> one;
  Bits<128> other;
  EXPECT_FALSE(one.Any());
  for (std::size_t i = 0; i < 128; ++i) {
    EXPECT_EQ(Bits<128>::FirstFree(one, other), i);
    (i % 3 == 0 ? one : other).Set(i);
  }
  EXPECT_EQ(Bits<128>::FirstFree(one, other), 128u);
  std::size_t count = 0;
  one.ForEach([&](std::size_t i) { count += i % 3 == 0 ? 1 : 1000; });
  EXPECT_EQ(count, 43u);
  other.Reset(64);
  EXPECT_FALSE(other.Test(64));
  EXPECT_EQ(Bits<128>::FirstFree(one, other), 64u);
  one.Add(other);
  EXPECT_TRUE(one.Test(1));
}

}  // namespace
}  // namespace farswap
