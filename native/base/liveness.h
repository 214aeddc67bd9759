// Which process serves, and whether any thread of the one before still runs. A pidfd tells of a
// death only when the kernel has unmapped the process; a robust mutex before that.
//
// The process that serves holds a mutex, and so does each of its threads that StartThread() starts.
// A successor waits for the first, which is free once the process is being killed, then for each of
// the others: then no thread of the dead process runs user code or a system call.
#pragma once

#include <array>
#include <cstddef>

#include "base/robust_mutex.h"

namespace farswap {

/// In memory that the processes share.
class Liveness {
 public:
  static constexpr std::size_t kThreadsMax = 2047;

  /// Before any process serves.
  void Init();
  /// Waits until no other process serves. The calling thread must live as long as its process; the
  /// threads that StartThread() starts from now on are this process's.
  void Serve();

  /// For StartThread().
  std::size_t EnterThread();
  void LeaveThread(std::size_t index) { threads_[index].Unlock(); }

 private:
  RobustMutex process_;
  std::array<RobustMutex, kThreadsMax> threads_;
};

}  // namespace farswap
