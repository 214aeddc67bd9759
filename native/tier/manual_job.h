// The writeback that an operator started: its target, what was sent for it, and why it stopped.
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>

#include "tier/tier.h"
#include "tier/writeback.h"

namespace farswap::tier {

class ManualJob {
 public:
  /// False: another job runs, or pages of a cancelled one are in flight.
  bool Start(const WritebackJob& job);
  void Cancel();
  Tier::ManualWriteback Progress() const;

  // --- For the shrinker

  /// The job, and how many pages are neither written nor in flight. Nothing: no job runs.
  struct Rest {
    WritebackJob job;
    std::uint64_t pages;
  };
  std::optional<Rest> NotSent() const;
  void OnSent(std::size_t pages);
  void OnAnswered(const Writeback::Answer& answer);
  /// There are no entries to send.
  void OnNothingLeft();

 private:
  void End(const char* reason);

  mutable std::mutex mutex_;  // guards all below
  Tier::ManualWriteback state_{0, 0, 0, true, ""};
  WritebackJob job_;
  std::uint64_t in_flight_pages_ = 0;
};

}  // namespace farswap::tier
