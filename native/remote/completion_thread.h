// The one thread ("fs-remote-grpc") that waits for gRPC and is told of everything it finishes: one
// for all sessions of a cluster. gRPC's callback interface would do the same with several threads,
// which hand the polling of sockets to one another at every event; that alone doubles the time of a
// fetch.
#pragma once

#include <grpcpp/completion_queue.h>

#include <atomic>
#include <cstdint>
#include <thread>

namespace farswap::remote {

/// What waits for an operation of gRPC.
class Completion {
 public:
  /// On the completion thread. Must not block.
  virtual void OnCompleted(bool ok) = 0;

 protected:
  ~Completion() = default;
};

class CompletionThread {
 public:
  CompletionThread();
  /// All operations must have been completed.
  ~CompletionThread();

  grpc::CompletionQueue* queue() { return &queue_; }

  /// What to give gRPC as the operation's tag, in the call that starts it.
  void* Tag(Completion* completion) {
    started_.fetch_add(1, std::memory_order_release);
    return completion;
  }

 private:
  void Run();

  grpc::CompletionQueue queue_;
  // Operations ever started. gRPC orders what came before an operation before its completion; this
  // says so once more, for sanitizers, which see nothing of what gRPC does inside.
  std::atomic<std::uint64_t> started_{0};
  std::thread thread_;
};

}  // namespace farswap::remote
