// Preparation of a process that the kernel waits for while it reclaims memory.
#pragma once

#include <string>
#include <vector>

namespace farswap {

/// A protection, and why it was refused if it was.
struct ReclaimProtection {
  std::string subject;  // "io_flusher", "memlock", "oom_score_adj", "thread_stacks"
  bool granted;
  std::string message;  // for the operator; empty when granted
};

/// Prepares this process for the reclaim path: PR_SET_IO_FLUSHER (allocations never wait for swap
/// I/O), mlockall of present and future pages, oom_score_adj -1000, and small default thread
/// stacks, since MCL_FUTURE populates them completely. Call it before another thread starts. Linux:
/// prctl(2), mlockall(2), proc(5).
std::vector<ReclaimProtection> EnterReclaimPath();

}  // namespace farswap
