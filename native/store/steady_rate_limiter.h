// How fast RocksDB flushes and compacts, by the steady clock. RocksDB's own limiter waits until a
// time of the wall clock: when that is set back during such a wait, flushes stand still for as
// long, and then the stores of all hosts.
#pragma once

#include <rocksdb/rate_limiter.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>

namespace farswap::store {

class SteadyRateLimiter final : public rocksdb::RateLimiter {
 public:
  explicit SteadyRateLimiter(std::int64_t bytes_per_second) : bytes_per_second_(bytes_per_second) {}

  /// Returns once all earlier requests have had their time. Requests of any priority wait in line.
  void Request(std::int64_t bytes, rocksdb::Env::IOPriority priority) override;
  using rocksdb::RateLimiter::Request;

  void SetBytesPerSecond(std::int64_t bytes_per_second) override {
    bytes_per_second_ = bytes_per_second;
  }
  std::int64_t GetBytesPerSecond() const override { return bytes_per_second_; }
  std::int64_t GetSingleBurstBytes() const override { return bytes_per_second_ / 10; }
  std::int64_t GetTotalBytesThrough(rocksdb::Env::IOPriority) const override { return bytes_; }
  std::int64_t GetTotalRequests(rocksdb::Env::IOPriority) const override { return requests_; }

 private:
  using Clock = std::chrono::steady_clock;

  std::atomic<std::int64_t> bytes_per_second_;
  std::atomic<std::int64_t> bytes_{0};
  std::atomic<std::int64_t> requests_{0};
  std::mutex mutex_;
  Clock::time_point free_at_{};  // when all that was granted has had its time
};

}  // namespace farswap::store
