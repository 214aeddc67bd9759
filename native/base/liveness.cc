#include "base/liveness.h"

#include <unistd.h>

#include "base/check.h"
#include "base/thread.h"

namespace farswap {

void Liveness::Init() {
  process_.Init();
  for (RobustMutex& thread : threads_) thread.Init();
}

void Liveness::Serve() {
  process_.Lock();
  for (RobustMutex& thread : threads_) {
    thread.Lock();
    thread.Unlock();
  }
  RegisterThreads(this);
}

std::size_t Liveness::EnterThread() {
  for (std::size_t i = 0; i < kThreadsMax; ++i) {
    if (threads_[i].TryLock()) return i;
  }
  FARSWAP_CHECK(false && "too many threads");
  return 0;
}

}  // namespace farswap
