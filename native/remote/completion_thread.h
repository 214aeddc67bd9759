// The one thread ("fs-remote-grpc") that waits for gRPC and is told of everything it finishes: one
// for all sessions of a cluster. gRPC's callback interface would do the same with several threads,
// which hand the polling of sockets to one another at every event; that alone doubles the time of a
// fetch.
#pragma once

#include <grpcpp/completion_queue.h>

#include <atomic>
#include <cassert>
#include <thread>

namespace farswap::remote {

/// What waits for an operation of gRPC, one at a time.
class Completion {
 public:
  /// What to give gRPC as the operation's tag, in the call that starts it.
  void* Tag() {
    [[maybe_unused]] const bool before = under_way_.exchange(true, std::memory_order_release);
    assert(!before);
    return this;
  }

  static void Complete(void* tag, bool ok) {
    auto* const completion = static_cast<Completion*>(tag);
    // gRPC orders what was done before the operation before this. Saying so once more costs
    // nothing, and tells sanitizers, which see nothing of what gRPC does inside.
    completion->under_way_.exchange(false, std::memory_order_acquire);
    completion->OnCompleted(ok);
  }

 protected:
  ~Completion() = default;

 private:
  /// On the completion thread. Must not block.
  virtual void OnCompleted(bool ok) = 0;

  std::atomic<bool> under_way_{false};
};

class CompletionThread {
 public:
  CompletionThread();
  /// All operations must have been completed.
  ~CompletionThread();

  grpc::CompletionQueue* queue() { return &queue_; }

 private:
  grpc::CompletionQueue queue_;
  std::thread thread_;
};

}  // namespace farswap::remote
