// CLOCK_BOOTTIME: monotonic, counts suspended time, and independent of the wall clock.
#pragma once

#include <cstdint>
#include <ctime>

namespace farswap {

/// Milliseconds since boot.
inline std::uint64_t BootMilliseconds() {
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000 +
         static_cast<std::uint64_t>(now.tv_nsec) / 1'000'000;
}

}  // namespace farswap
