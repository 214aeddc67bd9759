// The limiter of flushes and compactions.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

#include "store/steady_rate_limiter.h"

namespace farswap::store {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

TEST(SteadyRateLimiter, RequestsOfAllThreadsTakeTheirTimeTogether) {
  SteadyRateLimiter limiter(1 << 20);
  const auto began = steady_clock::now();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 3; ++n) limiter.Request(1 << 14, rocksdb::Env::IO_LOW);
    });
  }
  for (std::thread& thread : threads) thread.join();
  // The last of twelve waits for the eleven before it, each a 64th of a second.
  EXPECT_GE(steady_clock::now() - began, milliseconds(11 * 1000 / 64));
  EXPECT_EQ(limiter.GetTotalBytesThrough(rocksdb::Env::IO_TOTAL), 12 << 14);
  EXPECT_EQ(limiter.GetTotalRequests(rocksdb::Env::IO_TOTAL), 12);
}

TEST(SteadyRateLimiter, OneRequestAfterAPauseDoesNotWait) {
  SteadyRateLimiter limiter(1);
  limiter.Request(1 << 30, rocksdb::Env::IO_HIGH);
  EXPECT_EQ(limiter.GetTotalRequests(rocksdb::Env::IO_TOTAL), 1);
}

}  // namespace
}  // namespace farswap::store
