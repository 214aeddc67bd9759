// Pages that one memory server may forget. They are gathered for a moment, then sent in batches,
// one call at a time. A batch whose call failed is sent again after a while, or on the next
// connection: a server may be slow to forget, or fail to, and still answer fetches.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/async_unary_call.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <span>

#include "farswap/v1/page_store.grpc.pb.h"
#include "remote/lane.h"
#include "rpc/completion_threads.h"
#include "tier/remote_store.h"

namespace farswap::remote {

class DiscardLane final : private rpc::Completion {
 public:
  static constexpr std::size_t kQueuedMax = 16384;
  static constexpr std::size_t kBatchMax = 4096;  // of the protocol
  static constexpr std::chrono::milliseconds kGatherFor{10};
  static constexpr std::chrono::milliseconds kCallDeadline{5000};
  static constexpr std::chrono::milliseconds kRetryAfter{1000};

  explicit DiscardLane(LaneObserver* observer) : observer_(observer) {}

  /// Whether as many may be added as come at once. Any thread.
  bool HasRoom() const;
  /// Any thread.
  void Add(std::span<const tier::DiscardItem> items);

  // Of the session's thread.

  void Open(v1::PageStore::Stub* stub, rpc::CompletionThreads* completions, OpenedVolume volume);
  /// Forgets what waits: the server has none of it. The lane must be detached.
  void Clear();
  /// Sends what has been gathered; returns when it wants to be called again, at the latest.
  TimePoint Service(TimePoint now);
  /// Gives up the connection. What is not confirmed waits for the next Open().
  void Detach();

 private:
  void Send();
  void OnCompleted(bool ok) override;

  LaneObserver* const observer_;

  // Of the session's thread alone, and of the completion thread while a call is under way.
  v1::PageStore::Stub* stub_ = nullptr;
  rpc::CompletionThreads* completions_ = nullptr;
  OpenedVolume volume_;
  std::unique_ptr<grpc::ClientContext> context_;
  TimePoint give_up_at_{};  // kept here: gRPC's timers wait by the wall clock
  v1::DiscardRequest request_;
  v1::DiscardResponse response_;
  grpc::Status status_;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::DiscardResponse>> call_;

  // Guards all below.
  mutable std::mutex mutex_;
  std::condition_variable call_done_;
  std::deque<tier::DiscardItem> queue_;
  TimePoint gathering_since_ = kNever;
  TimePoint retry_at_{};       // nothing is sent before
  std::size_t in_flight_ = 0;  // the oldest of the queue, while a call is under way
};

}  // namespace farswap::remote
