// A server's running time, for leases and silence.
//
// A pause of the server (a stopped process, a suspended machine, a disk that blocks the thread that
// reads the sockets) counts as at most kStepMax: messages that hosts sent meanwhile are still
// unread. Independent of the wall clock.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <utility>

namespace farswap::store {

class RunningClock {
 public:
  using Source = std::function<std::chrono::nanoseconds()>;
  static constexpr std::chrono::milliseconds kTickEvery{100};
  static constexpr std::chrono::milliseconds kStepMax{250};

  static std::chrono::nanoseconds Steady() {
    return std::chrono::steady_clock::now().time_since_epoch();
  }

  explicit RunningClock(Source source) : source_(std::move(source)), last_(source_()) {}

  /// Called by one thread every kTickEvery.
  void Tick() {
    const std::chrono::nanoseconds now = source_();
    running_ += std::clamp<std::chrono::nanoseconds>(now - last_, {}, kStepMax).count();
    last_ = now;
  }

  /// Running time at the last Tick().
  std::chrono::milliseconds Now() const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::nanoseconds(running_.load(std::memory_order_relaxed)));
  }

 private:
  const Source source_;
  std::chrono::nanoseconds last_;
  std::atomic<std::chrono::nanoseconds::rep> running_{0};
};

}  // namespace farswap::store
