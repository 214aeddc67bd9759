// How a test waits for another thread: for a value that the thread sets, or for a condition that no
// event announces.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "hang_guard.h"

namespace farswap {

/// A value that one thread sets, once, and others wait for.
template <typename T = std::monostate>
class Waiter {
 public:
  void Set(T value = {}) {
    const std::lock_guard lock(mutex_);
    if (value_.has_value()) {
      std::fputs("a Waiter was set twice\n", stderr);
      std::abort();
    }
    value_ = std::move(value);
    // Under the lock: who waits may destroy this as soon as it is released.
    changed_.notify_all();
  }
  bool ready() {
    const std::lock_guard lock(mutex_);
    return value_.has_value();
  }
  /// No value: none came for kHangGuard.
  std::optional<T> Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kHangGuard, [this] { return value_.has_value(); });
    return value_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<T> value_;
};

/// Polls until the condition holds. False: it did not hold for `limit`.
inline bool Eventually(const std::function<bool()>& condition,
                       std::chrono::milliseconds limit = kHangGuard) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  return true;
}

}  // namespace farswap
