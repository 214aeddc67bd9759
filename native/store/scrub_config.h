// How fast a store is scrubbed (scrubber.h).
#pragma once

#include <chrono>
#include <cstdint>

namespace farswap::store {

struct ScrubConfig {
  std::chrono::milliseconds interval{0};  // 0: only passes that an operator requests
  // Of a pass that its interval would make slower, and of one that an operator waits for.
  std::uint64_t bytes_per_second_min = std::uint64_t{1} << 20;
  std::uint64_t bytes_per_second_requested = std::uint64_t{64} << 20;
  std::uint64_t bytes_at_once = std::uint64_t{256} << 10;
};

}  // namespace farswap::store
