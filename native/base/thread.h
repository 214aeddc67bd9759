// Threads of the native core: named, with small stacks, and deaf to signals (Python handles them).
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <thread>

namespace farswap {

/// Stack of every thread started after EnterReclaimPath(). gRPC and RocksDB threads live in it too.
inline constexpr std::size_t kThreadStackBytes = std::size_t{512} << 10;

/// Starts a thread named `name` (15 characters are kept) that runs `body` with all signals blocked.
std::thread StartThread(const std::string& name, std::function<void()> body);

}  // namespace farswap
