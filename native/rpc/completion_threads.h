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
#include <mutex>
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

/// Work that completions add, for the threads of their queue to do in an order of its own.
class Backlog {
 public:
  virtual bool empty() const = 0;
  /// Whether the order matters: all that has completed is looked at before each piece of work.
  virtual bool gathers() const = 0;
  /// Does one piece of work, if there is any.
  virtual void Work() = 0;

 protected:
  ~Backlog() = default;
};

class CompletionThreads {
 public:
  /// Each thread calls `prepare` first. Completions must not wait if there is a backlog: one thread
  /// at a time takes them.
  CompletionThreads(
      std::unique_ptr<grpc::CompletionQueue> queue, const std::string& name,
      std::size_t thread_count, const std::function<void()>& prepare = [] {},
      Backlog* backlog = nullptr);
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
  bool TakeCompletions();
  bool Complete(bool wait);

  const std::unique_ptr<grpc::CompletionQueue> queue_;
  // Operations ever started. gRPC orders an operation's start before its completion; this counter
  // shows that to sanitizers, which cannot see inside gRPC.
  std::atomic<std::uint64_t> started_{0};
  Backlog* const backlog_;
  std::mutex taking_;  // of the thread that takes completions, if there is a backlog
  std::vector<std::thread> threads_;
};

}  // namespace farswap::rpc
