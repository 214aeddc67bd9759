#include "base/reclaim_path.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/thread.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace farswap {
namespace {

ReclaimProtection Outcome(const char* subject, int error, const std::string& remedy) {
  if (error == 0) return {subject, true, ""};
  return {subject, false, std::string(std::strerror(error)) + "; " + remedy};
}

int WriteOomScore() {
  const int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = write(fd, "-1000", 5) == 5 ? 0 : errno;
  close(fd);
  return error;
}

int SetDefaultThreadStack() {
  pthread_attr_t attributes;
  if (const int error = pthread_attr_init(&attributes)) return error;
  int error = pthread_attr_setstacksize(&attributes, kThreadStackBytes);
  if (error == 0) error = pthread_setattr_default_np(&attributes);
  pthread_attr_destroy(&attributes);
  return error;
}

}  // namespace

std::vector<ReclaimProtection> EnterReclaimPath() {
  std::vector<ReclaimProtection> report;
  report.push_back(Outcome("thread_stacks", SetDefaultThreadStack(),
                           "each thread locks a stack of the default size"));
  report.push_back(
      Outcome("io_flusher", prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0 ? 0 : errno,
              "grant CAP_SYS_RESOURCE; allocations of the daemon may wait for its own swap"));
  report.push_back(Outcome("memlock", mlockall(MCL_CURRENT | MCL_FUTURE) == 0 ? 0 : errno,
                           "raise LimitMEMLOCK or grant CAP_IPC_LOCK; the daemon's pages may be "
                           "swapped to its own device, which can deadlock"));
  report.push_back(Outcome("oom_score_adj", WriteOomScore(),
                           "grant CAP_SYS_RESOURCE; the OOM killer may kill the daemon"));
  return report;
}

}  // namespace farswap
