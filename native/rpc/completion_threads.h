// A gRPC completion queue and the threads that wait for it, on either side of the page protocol.
//
// Why not gRPC's callback interface, or its synchronous one on the server: both have several
// threads that hand the polling of sockets to one another at every event, which doubles the time of
// a fetch. A queue that serves fetches has one thread, so that whoever sees the bytes come also
// answers.
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

/// What waits for an operation of gRPC.
class Completion {
 public:
  /// On one of the queue's threads. May destroy the object.
  virtual void OnCompleted(bool ok) = 0;

 protected:
  ~Completion() = default;
};

class CompletionThreads {
 public:
  /// `prepare` is what each thread does first.
  CompletionThreads(
      std::unique_ptr<grpc::CompletionQueue> queue, const std::string& name,
      std::size_t thread_count, const std::function<void()>& prepare = [] {});
  /// All operations must have been completed.
  ~CompletionThreads();

  grpc::CompletionQueue* queue() { return queue_.get(); }

  /// What to give gRPC as the operation's tag, in the call that starts it.
  void* Tag(Completion* completion) {
    started_.fetch_add(1, std::memory_order_release);
    return completion;
  }

 private:
  void Run();

  const std::unique_ptr<grpc::CompletionQueue> queue_;
  // Operations ever started. gRPC orders what came before an operation before its completion; this
  // says so once more, for sanitizers, which see nothing of what gRPC does inside.
  std::atomic<std::uint64_t> started_{0};
  std::vector<std::thread> threads_;
};

}  // namespace farswap::rpc
