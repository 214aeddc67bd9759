// The writeback that an operator started: its target, what was sent for it, and why it stopped.
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>

#include "tier/config.h"
#include "tier/writeback.h"

namespace farswap::tier {

class ManualJob {
 public:
  /// False: another job runs, or pages of a cancelled one are in flight.
  bool Start(const WritebackJob& job) {
    const std::lock_guard lock(mutex_);
    if (!state_.finished || in_flight_pages_ > 0) return false;
    job_ = job;
    state_ = {job.bytes, 0, 0, false, ""};
    return true;
  }
  void Cancel() {
    const std::lock_guard lock(mutex_);
    End("cancelled");
  }
  ManualWriteback Progress() const {
    const std::lock_guard lock(mutex_);
    return state_;
  }

  // --- For the shrinker

  /// The job, and how many pages are neither written nor in flight. Nothing: no job runs.
  struct Rest {
    WritebackJob job;
    std::uint64_t pages;
  };
  std::optional<Rest> NotSent() const {
    const std::lock_guard lock(mutex_);
    if (state_.finished) return std::nullopt;
    const std::uint64_t target = (state_.target_bytes + kPageBytes - 1) / kPageBytes;
    const std::uint64_t sent = state_.written_bytes / kPageBytes + in_flight_pages_;
    return Rest{job_, target > sent ? target - sent : 0};
  }
  void OnSent(std::size_t pages) {
    const std::lock_guard lock(mutex_);
    in_flight_pages_ += pages;
  }
  void OnAnswered(const Writeback::Answer& answer) {
    const std::lock_guard lock(mutex_);
    in_flight_pages_ -= answer.pages;
    state_.written_bytes += answer.acked_pages * kPageBytes;
    state_.sent_bytes += answer.acked_bytes;
    if (state_.written_bytes >= state_.target_bytes) {
      End("");
    } else if (answer.server_full && answer.acked_pages == 0) {
      End("the memory servers are full");
    }
  }
  void OnNothingLeft() {
    const std::lock_guard lock(mutex_);
    if (in_flight_pages_ == 0) End("no more entries to write back");
  }

 private:
  void End(const char* reason) {
    if (state_.finished) return;
    state_.finished = true;
    state_.stopped_because = reason;
  }

  mutable std::mutex mutex_;  // guards all below
  ManualWriteback state_{0, 0, 0, true, ""};
  WritebackJob job_;
  std::uint64_t in_flight_pages_ = 0;
};

}  // namespace farswap::tier
