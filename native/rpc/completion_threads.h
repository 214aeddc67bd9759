// A gRPC completion queue and its threads, for both sides of the page protocol.
//
// gRPC's callback and synchronous interfaces pass the polling of sockets from thread to thread at
// every event, which doubles the time of a fetch. A queue for fetches has one thread, which
// receives a request and answers it.
#pragma once

#include <grpcpp/completion_queue.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace farswap::rpc {

/// Waits for an operation of gRPC.
class Completion {
 public:
  /// Called on one of the queue's threads. May delete the object.
  virtual void OnCompleted(bool ok) = 0;

 protected:
  ~Completion() = default;
};

class CompletionThreads {
 public:
  /// Each thread calls `prepare` first.
  CompletionThreads(
      std::unique_ptr<grpc::CompletionQueue> queue, const std::string& name,
      std::size_t thread_count, const std::function<void()>& prepare = [] {});
  /// All operations must have completed.
  ~CompletionThreads();

  grpc::CompletionQueue* queue() { return queue_.get(); }

  /// The operation's tag for gRPC, in the call that starts it.
  void* Tag(Completion* completion) {
    started_.fetch_add(1, std::memory_order_release);
    return completion;
  }

 private:
  void Run();

  const std::unique_ptr<grpc::CompletionQueue> queue_;
  // Operations ever started. gRPC orders an operation's start before its completion; this counter
  // shows that to sanitizers, which cannot see inside gRPC.
  std::atomic<std::uint64_t> started_{0};
  std::vector<std::thread> threads_;
};

}  // namespace farswap::rpc
