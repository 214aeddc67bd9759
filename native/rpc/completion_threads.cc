#include "rpc/completion_threads.h"

#include <grpc/support/time.h>

#include <utility>

#include "base/thread.h"

namespace farswap::rpc {

CompletionThreads::CompletionThreads(std::unique_ptr<grpc::CompletionQueue> queue,
                                     const std::string& name, std::size_t thread_count,
                                     const std::function<void()>& prepare, Backlog* backlog)
    : queue_(std::move(queue)), backlog_(backlog) {
  for (std::size_t i = 0; i < thread_count; ++i) {
    threads_.push_back(StartThread(name, [this, prepare] {
      prepare();
      Run();
    }));
  }
}

void CompletionThreads::Run() {
  while (backlog_ ? TakeCompletions() : Complete(true)) {
    if (backlog_) backlog_->Work();
  }
}

// Waits for a completion only without a backlog. The next thread takes over when this one works.
bool CompletionThreads::TakeCompletions() {
  const std::lock_guard lock(taking_);
  if (backlog_->empty() && !Complete(true)) return false;
  while (backlog_->gathers() && Complete(false)) continue;
  return true;
}

// False: there is none, or no more comes.
bool CompletionThreads::Complete(bool wait) {
  void* tag = nullptr;
  bool ok = false;
  const gpr_timespec until =
      wait ? gpr_inf_future(GPR_CLOCK_MONOTONIC) : gpr_inf_past(GPR_CLOCK_MONOTONIC);
  if (queue_->AsyncNext(&tag, &ok, until) != grpc::CompletionQueue::GOT_EVENT) return false;
  [[maybe_unused]] const std::uint64_t started = started_.load(std::memory_order_acquire);
  static_cast<Completion*>(tag)->OnCompleted(ok);
  return true;
}

CompletionThreads::~CompletionThreads() {
  queue_->Shutdown();
  for (std::thread& thread : threads_) thread.join();
}

}  // namespace farswap::rpc
