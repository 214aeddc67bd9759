// How long a test waits for what has to happen, before it calls it a hang.
#pragma once

#include <chrono>

namespace farswap {

/// Far beyond what a thread of ours is ever held up on a busy machine, and within ctest's own
/// limit. What a test gives the code under test to wait for is at least as long, unless it is about
/// the end of that wait.
inline constexpr std::chrono::seconds kHangGuard{180};

}  // namespace farswap
