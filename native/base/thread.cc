#include "base/thread.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <utility>

#include "base/liveness.h"

namespace farswap {
namespace {

std::atomic<Liveness*> registry{nullptr};

/// As a thread of the process that serves.
void RunRegistered(Liveness* liveness, const std::function<void()>& body) {
  const std::size_t index = liveness->EnterThread();
  body();
  liveness->LeaveThread(index);
}

}  // namespace

void RegisterThreads(Liveness* liveness) { registry.store(liveness); }

std::thread StartThread(const std::string& name, std::function<void()> body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  // The new thread inherits the mask, so it never receives a signal.
  pthread_sigmask(SIG_SETMASK, &all, &before);
  Liveness* const liveness = registry.load();
  std::thread thread(liveness == nullptr ? std::move(body) : [liveness, body = std::move(body)] {
    RunRegistered(liveness, body);
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(thread.native_handle(), name.substr(0, 15).c_str());
  return thread;
}

}  // namespace farswap
