// Rate limit of RocksDB's flushes and compactions, by the steady clock. RocksDB's own limiter uses
// the wall clock: if that is set back, flushes stop for as long, and then the stores of all hosts.
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

  /// Returns when the time of all earlier requests is over. First come, first served.
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
  Clock::time_point free_at_{};  // end of the time of all granted requests
};

}  // namespace farswap::store
