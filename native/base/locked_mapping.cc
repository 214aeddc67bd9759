#include "base/locked_mapping.h"

#include <sys/mman.h>
#include <sys/prctl.h>

#include <cerrno>
#include <cstring>

namespace farswap {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

std::size_t RoundUp(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

Result<std::unique_ptr<LockedMapping>> LockedMapping::Create(std::size_t bytes,
                                                             const std::string& name) {
  const bool huge = bytes >= kHugePageBytes;
  const std::size_t length = RoundUp(bytes, huge ? kHugePageBytes : 4096);
  void* address = mmap(nullptr, length, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) {
    return Error{"failed to map " + std::to_string(length) + " bytes for the " + name + ": " +
                 std::strerror(errno)};
  }
  if (huge) madvise(address, length, MADV_HUGEPAGE);
#ifdef PR_SET_VMA
  prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, address, length, ("farswap-" + name).c_str());
#endif
  // A child must not copy the mapping: its exit would be slow, and copy-on-write faults would
  // allocate.
  madvise(address, length, MADV_DONTFORK);
  if (mlock(address, length) != 0 && madvise(address, length, MADV_POPULATE_WRITE) != 0) {
    const int reason = errno;
    munmap(address, length);
    return Error{"failed to populate " + std::to_string(length) + " bytes for the " + name + ": " +
                 std::strerror(reason)};
  }
  return std::unique_ptr<LockedMapping>(
      new LockedMapping(static_cast<std::byte*>(address), length));
}

LockedMapping::~LockedMapping() { munmap(data_, bytes_); }

}  // namespace farswap
