// CLOCK_BOOTTIME: it goes only forward, also while the machine is suspended, and no step of the
// wall clock changes it.
#pragma once

#include <cstdint>
#include <ctime>

namespace farswap {

/// Milliseconds since the machine booted.
inline std::uint64_t BootMilliseconds() {
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000 +
         static_cast<std::uint64_t>(now.tv_nsec) / 1'000'000;
}

}  // namespace farswap
