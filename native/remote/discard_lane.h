// Pending discards of one memory server. They are collected for a moment, then sent in batches, one
// call at a time. A call without an answer is cancelled after half an owner's lease. A failed batch
// is sent again a tenth of a lease later, or on the next connection: a server may fail to discard
// and still answer fetches.
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

  explicit DiscardLane(LaneObserver* observer) : observer_(observer) {}

  /// Whether a full call of Add() fits. Any thread.
  bool HasRoom() const;
  /// Any thread.
  void Add(std::span<const tier::DiscardItem> items);

  // Only for the session's thread.

  void Open(v1::PageStore::Stub* stub, rpc::CompletionThreads* completions, OpenedVolume volume);
  /// Drops all discards, as the server's store is another one. The lane must be detached.
  void Clear();
  /// Sends collected discards; returns the latest time of the next call.
  TimePoint Service(TimePoint now);
  /// Drops the connection. Unconfirmed discards wait for the next Open().
  void Detach();

 private:
  void Send();
  void OnCompleted(bool ok) override;

  LaneObserver* const observer_;

  // Used by the session's thread, and by the completion thread during a call.
  v1::PageStore::Stub* stub_ = nullptr;
  rpc::CompletionThreads* completions_ = nullptr;
  OpenedVolume volume_;
  std::unique_ptr<grpc::ClientContext> context_;
  TimePoint give_up_at_{};  // kept here, since gRPC's timers follow the wall clock
  v1::DiscardRequest request_;
  v1::DiscardResponse response_;
  grpc::Status status_;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::DiscardResponse>> call_;

  // Guards all below.
  mutable std::mutex mutex_;
  std::condition_variable call_done_;
  std::deque<tier::DiscardItem> queue_;
  TimePoint gathering_since_ = kNever;
  TimePoint retry_at_{};       // time of the next attempt
  std::size_t in_flight_ = 0;  // the oldest of the queue, during a call
};

}  // namespace farswap::remote
