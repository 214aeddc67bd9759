// Heartbeats of a volume's owner to one memory server: one request per fifth of the owner's lease,
// or more where another replica takes over, from the session's thread, on a channel of its own,
// where no backlog of puts delays it. Answers have the server's room and state, and the servers
// that an operator removed.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "farswap/v1/page_store.grpc.pb.h"
#include "remote/damage_reports.h"
#include "remote/lane.h"
#include "remote/members.h"
#include "remote/placement_info.h"
#include "remote/stream.h"

namespace farswap::remote {

class PutLane;

/// What heartbeats carry, beside the server's room and state. Any locks.
struct HeartbeatContents {
  std::function<PlacementInfo()> placement;
  std::function<std::chrono::microseconds()> fetch_p99;
  std::function<std::vector<DamageReports::Compared>()> compared;
  std::function<void(const std::vector<DamageReports::Report>&)> on_damage;
};

class HeartbeatLane final : public Stream<v1::SessionRequest, v1::SessionResponse>::Owner {
 public:
  /// Drops the connection of a server that is silent for `silence_max`, or for the owner's lease.
  /// `stores` gets the server's room and state.
  HeartbeatLane(std::function<std::optional<std::chrono::milliseconds>()> silence_max,
                HeartbeatContents contents, const Members* members, PutLane* stores,
                LaneObserver* observer)
      : silence_max_(std::move(silence_max)),
        contents_(std::move(contents)),
        members_(members),
        stores_(stores),
        observer_(observer) {}

  // Only for the session's thread.

  void Open(v1::PageStore::Stub* stub, rpc::CompletionThreads* completions, OpenedVolume volume);
  /// Sends a request if it is time; returns the latest time of the next call.
  TimePoint Service(TimePoint now);
  /// Since when the server is silent; nothing: it is not.
  std::optional<TimePoint> SilentSince() const;
  /// Stores that were removed, by the answers since the last call.
  std::vector<ServerId> TakeRemoved();
  /// Drops the connection; returns why it was lost.
  std::string Detach();

 private:
  using SessionStream = Stream<v1::SessionRequest, v1::SessionResponse>;

  void OnAnswer(const v1::SessionResponse& answer) override;
  void OnWritable() override { observer_->OnLaneWork(); }

  std::chrono::milliseconds SilenceMax() const {
    return silence_max_().value_or(volume_.owner_lease);
  }
  std::chrono::milliseconds Interval() const {
    return std::min(HeartbeatOf(volume_.owner_lease), SilenceMax() / 2);
  }
  std::uint64_t UnansweredMax() const {
    return static_cast<std::uint64_t>(SilenceMax() / Interval());
  }

  const std::function<std::optional<std::chrono::milliseconds>()> silence_max_;
  const HeartbeatContents contents_;
  const Members* const members_;
  PutLane* const stores_;
  LaneObserver* const observer_;
  std::unique_ptr<SessionStream> stream_;
  OpenedVolume volume_;
  TimePoint due_{};
  std::uint64_t sequence_ = 0;              // of the last request
  std::atomic<std::uint64_t> answered_{0};  // of the last answer
  std::atomic<TimePoint> heard_at_{};       // the last answer, or the opening
  std::mutex removed_mutex_;                // a leaf
  std::vector<ServerId> removed_;
};

}  // namespace farswap::remote
