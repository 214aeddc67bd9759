// Heartbeats of a volume's owner to one memory server: one request per fifth of the owner's lease,
// from the session's thread, on a channel of its own, where no backlog of puts delays it. Answers
// have the server's room and state.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "farswap/v1/page_store.grpc.pb.h"
#include "remote/lane.h"
#include "remote/stream.h"

namespace farswap::remote {

class PutLane;

class HeartbeatLane final : public Stream<v1::SessionRequest, v1::SessionResponse>::Owner {
 public:
  /// Unanswered requests in a row after which the connection is dropped.
  static constexpr std::uint64_t kUnansweredMax = 5;

  /// `stores` gets the server's room and state.
  HeartbeatLane(PutLane* stores, LaneObserver* observer) : stores_(stores), observer_(observer) {}

  // Only for the session's thread.

  void Open(v1::PageStore::Stub* stub, rpc::CompletionThreads* completions, OpenedVolume volume);
  /// Sends a request if it is time; returns the latest time of the next call.
  TimePoint Service(TimePoint now);
  /// Drops the connection; returns why it was lost.
  std::string Detach();

 private:
  using SessionStream = Stream<v1::SessionRequest, v1::SessionResponse>;

  void OnAnswer(const v1::SessionResponse& answer) override;
  void OnWritable() override { observer_->OnLaneWork(); }

  PutLane* const stores_;
  LaneObserver* const observer_;
  std::unique_ptr<SessionStream> stream_;
  OpenedVolume volume_;
  TimePoint due_{};
  std::uint64_t sequence_ = 0;              // of the last request
  std::atomic<std::uint64_t> answered_{0};  // of the last answer
};

}  // namespace farswap::remote
