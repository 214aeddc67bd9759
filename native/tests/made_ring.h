// An io_uring for a connection, as the supervisor makes it (client_nbd/survival/rings.py).
#pragma once

#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file_descriptor.h"

namespace farswap {

/// Closed if the kernel refuses it.
inline FileDescriptor MadeRing(io_uring_params* parameters) {
  constexpr unsigned kEntries = 8;
  *parameters = {};
  return FileDescriptor(static_cast<int>(syscall(SYS_io_uring_setup, kEntries, parameters)));
}

}  // namespace farswap
