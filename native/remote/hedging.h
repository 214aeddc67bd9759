// When a fetch that is not answered moves on to another replica, which spares it the slow tail of a
// server: once it takes longer than nearly all before, and as long as few have moved. For one
// server; the caller locks.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>

#include "remote/lane.h"

namespace farswap::remote {

class Hedging {
 public:
  static constexpr Clock::duration kDelayMin = std::chrono::milliseconds(2);
  static constexpr Clock::duration kDelayMax = std::chrono::milliseconds(100);
  static constexpr std::uint64_t kFetchesPerHedge = 20;  // over kSeconds

  void NoteFetch(TimePoint now) { ++At(now).fetches; }
  /// Tracks the 99th percentile: each longer time raises it by as much as 100 shorter ones lower
  /// it.
  void NoteAnswer(Clock::duration took) {
    delay_ += took > delay_ ? delay_ / 8 : -(delay_ / 800);
    delay_ = std::clamp(delay_, kDelayMin, kDelayMax);
  }
  /// A fetch that takes longer may move on.
  Clock::duration delay() const { return delay_; }

  /// Whether one more may move on now; if so, counts it.
  bool Take(TimePoint now) {
    Second& current = At(now);
    std::uint64_t fetches = 0;
    std::uint64_t hedges = 1;
    for (const Second& second : seconds_) {
      if (second.number + static_cast<std::int64_t>(kSeconds) <= current.number) continue;
      fetches += second.fetches;
      hedges += second.hedges;
    }
    if (hedges * kFetchesPerHedge > fetches) return false;
    ++current.hedges;
    NoteAnswer(kDelayMax);
    return true;
  }

 private:
  struct Second {
    std::int64_t number = -1;
    std::uint64_t fetches = 0;
    std::uint64_t hedges = 0;
  };
  static constexpr std::size_t kSeconds = 11;  // the first one is not whole

  Second& At(TimePoint now) {
    const auto number =
        std::chrono::duration_cast<std::chrono::seconds>(now.time_since_epoch()).count();
    Second& second = seconds_[static_cast<std::size_t>(number) % kSeconds];
    if (second.number != number) second = {.number = number};
    return second;
  }

  std::array<Second, kSeconds> seconds_{};
  Clock::duration delay_ = kDelayMax;
};

}  // namespace farswap::remote
