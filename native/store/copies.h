// The copies that run at this server: kCopiesMax at most, each on a thread "fs-copy". The thread
// "fs-copy-watch" ends those that must end, and reports progress also while none is made.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "store/shard_copy.h"

namespace farswap::store {

class Copies {
 public:
  /// A call of CopyShard.
  class Caller {
   public:
    /// Called often, on any thread, with the lock of Copies held. Must not wait.
    virtual void OnProgress(const v1::CopyShardResponse& progress) = 0;
    /// Called once, last. A cancelled copy has no status.
    virtual void OnEnd(const v1::CopyShardResponse& last) = 0;

   protected:
    ~Caller() = default;
  };

  Copies(PageStore* store, std::chrono::milliseconds silence_max);
  ~Copies();  // after Stop()

  /// Begins the copy, or returns the answer that refuses it.
  std::optional<v1::CopyShardResponse> Begin(const v1::CopyShardRequest& request, Caller* caller);
  /// Ends the caller's copy, if it runs.
  void Cancel(const Caller* caller);
  /// Ends all copies, and begins no more.
  void Stop();

 private:
  struct Job {
    Caller* caller;
    std::unique_ptr<ShardCopy> copy;
  };

  void Work();
  void Watch();
  void Report(const Job* job);

  PageStore* const store_;
  const std::chrono::milliseconds silence_max_;

  std::mutex mutex_;  // guards all below; taken before a copy's and a caller's lock
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Job>> running_;
  std::deque<Job*> begun_;  // not yet taken by a thread
  bool stopping_ = false;
  std::array<std::thread, kCopiesMax> workers_;
  std::thread watcher_;
};

}  // namespace farswap::store
