#include "store/steady_rate_limiter.h"

#include <algorithm>
#include <thread>

namespace farswap::store {

void SteadyRateLimiter::Request(std::int64_t bytes, rocksdb::Env::IOPriority /*priority*/) {
  bytes_ += bytes;
  ++requests_;
  const std::chrono::duration<double> takes(static_cast<double>(bytes) /
                                            static_cast<double>(bytes_per_second_));
  Clock::time_point turn;
  {
    const std::lock_guard lock(mutex_);
    turn = std::max(free_at_, Clock::now());
    free_at_ = turn + std::chrono::duration_cast<Clock::duration>(takes);
  }
  std::this_thread::sleep_until(turn);
}

}  // namespace farswap::store
