// Time before the next attempt: doubles from 20 ms to 1 s, less a random part of up to a half, so
// that hosts do not reconnect to a restarted server at the same time.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>

namespace farswap::remote {

class Backoff {
 public:
  static constexpr std::chrono::milliseconds kFirst{20};
  static constexpr std::chrono::milliseconds kMax{1000};

  explicit Backoff(std::uint32_t seed) : random_(seed) {}

  std::chrono::milliseconds Next() {
    const std::chrono::milliseconds full = next_;
    next_ = std::min(next_ * 2, kMax);
    std::uniform_int_distribution<std::int64_t> half(0, full.count() / 2);
    return full - std::chrono::milliseconds(half(random_));
  }

  void Reset() { next_ = kFirst; }

 private:
  std::minstd_rand random_;
  std::chrono::milliseconds next_ = kFirst;
};

}  // namespace farswap::remote
