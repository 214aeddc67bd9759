// The 99th percentile of recent fetch times of one server, for operators. The caller locks.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "remote/lane.h"

namespace farswap::remote {

class FetchTimes {
 public:
  using Microseconds = std::chrono::microseconds;
  static constexpr Clock::duration kWindow = std::chrono::seconds(30);
  static constexpr std::uint64_t kFetchesMin = 200;

  void Note(Clock::duration took, TimePoint now) {
    Turn(now);
    const auto us = std::chrono::duration_cast<Microseconds>(took).count();
    ++current_.counts[BucketOf(static_cast<std::uint64_t>(std::max<std::int64_t>(us, 0)))];
  }

  /// Of the last one to two windows, rounded up by at most a quarter; 0 if they have fewer than
  /// kFetchesMin.
  Microseconds Percentile99(TimePoint now) {
    Turn(now);
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) total += current_.counts[i] + previous_.counts[i];
    if (total < kFetchesMin) return Microseconds(0);
    std::uint64_t longer = 0;
    std::size_t bucket = kBuckets;
    while (longer * 100 <= total) {
      --bucket;
      longer += current_.counts[bucket] + previous_.counts[bucket];
    }
    return Microseconds(EndOf(bucket));
  }

 private:
  static constexpr std::size_t kBuckets = 128;  // four for each power of two of microseconds
  struct Window {
    TimePoint began{};
    std::array<std::uint32_t, kBuckets> counts{};
  };

  static std::size_t BucketOf(std::uint64_t us) {
    if (us < 4) return us;
    const auto shift = static_cast<unsigned>(std::bit_width(us)) - 3;
    return std::min<std::size_t>(std::size_t{shift} * 4 + (us >> shift), kBuckets - 1);
  }
  static std::int64_t EndOf(std::size_t bucket) {
    if (bucket < 4) return static_cast<std::int64_t>(bucket) + 1;
    return static_cast<std::int64_t>(bucket % 4 + 5) << (bucket / 4 - 1);
  }

  void Turn(TimePoint now) {
    if (now < current_.began + kWindow) return;
    previous_ = now < current_.began + 2 * kWindow ? current_ : Window{};
    current_ = {.began = now};
  }

  Window current_;
  Window previous_;
};

}  // namespace farswap::remote
