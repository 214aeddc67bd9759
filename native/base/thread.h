// Threads of the native core: named, with small stacks, and all signals blocked (Python handles
// them).
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <thread>

namespace farswap {

/// Stack size of threads started after EnterReclaimPath(), including those of gRPC and RocksDB.
inline constexpr std::size_t kThreadStackBytes = std::size_t{512} << 10;

class Liveness;

/// Threads that StartThread() starts from now on belong to it, until they end.
void RegisterThreads(Liveness* liveness);

/// Starts a thread `name` (at most 15 characters) that runs `body` with all signals blocked.
std::thread StartThread(const std::string& name, std::function<void()> body);

}  // namespace farswap
