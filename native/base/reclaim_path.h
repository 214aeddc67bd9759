// What a process does to itself once it may be what the kernel waits for when memory is short.
#pragma once

#include <string>
#include <vector>

namespace farswap {

/// One protection that was asked for, and why it could not be had if it could not.
struct ReclaimProtection {
  std::string subject;  // "io_flusher", "memlock", "oom_score_adj", "thread_stacks"
  bool granted;
  std::string message;  // for the operator; empty when granted
};

/// Makes this process fit for the reclaim path: PR_SET_IO_FLUSHER (its allocations never wait for
/// swap I/O), mlockall of present and future pages, oom_score_adj -1000, and small default thread
/// stacks, since MCL_FUTURE populates them whole. Call it before any other thread is started; the
/// protections that were refused say why. Linux: prctl(2), mlockall(2), proc(5).
std::vector<ReclaimProtection> EnterReclaimPath();

}  // namespace farswap
