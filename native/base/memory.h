// Memory that never faults: mapped, populated and, if the limits allow it, locked. Some kinds
// outlive the process that made them, and the kernel cannot swap them out while no process maps
// them.
//
//   kind       held by                             swapped out while nobody maps it
//   private    its process                         -
//   hugetlb    a descriptor: memfd of huge pages   never
//   tmpfs      a descriptor: file on `noswap`      never; Linux 6.4
//   sysv       its id, until it is removed         never: SHM_LOCK
//   ramfs      a descriptor                        never
//
// An ordinary memfd is none of them: all of it goes to swap when the process that locked it dies.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"

namespace farswap {

enum class MemoryKind : std::uint8_t { kPrivate, kHugetlb, kTmpfs, kSysv, kRamfs };

const char* NameOf(MemoryKind kind);

/// Those that outlive a process, the best one first.
inline constexpr std::array kSurvivingKinds{MemoryKind::kHugetlb, MemoryKind::kTmpfs,
                                            MemoryKind::kSysv, MemoryKind::kRamfs};

/// Zero-filled and populated. The destructor unmaps it.
class Memory {
 public:
  /// Of a kind that outlives the process: a descriptor, or the id of a System V segment.
  struct Handle {
    MemoryKind kind = MemoryKind::kPrivate;
    int number = -1;
  };

  /// Requests transparent huge pages.
  static Result<std::unique_ptr<Memory>> Create(std::size_t bytes, const std::string& name,
                                                MemoryKind kind = MemoryKind::kPrivate);
  /// Memory that another process made, of whatever content. Takes over the descriptor, also on
  /// failure.
  static Result<std::unique_ptr<Memory>> Adopt(const Handle& handle);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::byte* data() const { return data_; }
  /// At least as many as were asked for.
  std::size_t bytes() const { return bytes_; }
  /// The descriptor stays this object's.
  const Handle& handle() const { return handle_; }

  /// Frees memory of the kind sysv once no process maps it. Of other kinds the last descriptor
  /// does.
  void Remove();

 private:
  Memory(const Handle& handle, std::size_t bytes) : handle_(handle), bytes_(bytes) {}
  Outcome Map();

  const Handle handle_;
  const std::size_t bytes_;
  std::byte* data_ = nullptr;
};

}  // namespace farswap
