// The memory of a host: all that a successor needs after the process died at any instruction. It
// has no pointers.
//
//   │ header │ mutexes │ ids of the groups │ notes │ members │ shard words │ slot table │ pool │
//
// Everything else is rebuilt from it (Pages::Recover) or lost: free lists, LRUs, charges and counts
// follow from the records; counters and latencies start again.
//
// The header is written once, and has a checksum of itself. Memory that does not fit the process,
// because of other sizes or another layout, is refused and stays as it is.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/liveness.h"
#include "base/memory.h"
#include "base/result.h"
#include "tier/groups.h"
#include "tier/member_record.h"
#include "tier/page.h"
#include "tier/slot_table.h"
#include "tier/slot_words.h"

namespace farswap::tier {

class State {
 public:
  /// 16 random bytes, drawn with the memory.
  using Incarnation = std::array<std::byte, 16>;

  /// Of an empty device. Fails if memory is short or a size out of range.
  static Result<std::unique_ptr<State>> Create(std::uint64_t slots, std::uint64_t pool_bytes,
                                               MemoryKind kind = MemoryKind::kPrivate);
  /// Of a device that another process serves or served. Fails, with what does not fit, and leaves
  /// the memory as it is.
  static Result<std::unique_ptr<State>> Adopt(std::unique_ptr<Memory> memory, std::uint64_t slots,
                                              std::uint64_t pool_bytes);
  /// The same of any size, to look at.
  static Result<std::unique_ptr<State>> Inspect(std::unique_ptr<Memory> memory);

  /// Of the process that serves the device.
  Liveness& liveness() const;
  /// Raises the count of takeovers. For an adopted state, once no other process serves it, and
  /// before anything that follows is called.
  void TakeOver();

  Memory& memory() const { return *memory_; }
  Incarnation incarnation() const;
  /// How often it was adopted.
  std::uint32_t takeovers() const;
  bool adopted() const { return adopted_; }

  std::span<SlotRecord> slots() const;
  std::span<std::byte> pool() const;
  /// Of the group with each index; kUnknownCgroup: of none.
  std::span<std::atomic<CgroupId>, Groups::kGroupsMax> group_ids() const;
  /// Where the shards are: a word each, zero for one without pages, and the memory servers that the
  /// words name. Their meaning is the placement's.
  std::span<std::atomic<std::uint64_t>> shard_words() const;
  std::span<MemberRecord> members() const;
  /// How often any slot's version has wrapped. A slot's lock orders its own wraps before reads.
  std::atomic<std::uint32_t>& version_wraps() const;
  /// Version of the bundle sent last. Each attempt has its own: a server may have kept a bundle
  /// whose write seemed to fail.
  std::atomic<ObjectVersion>& bundle_version() const;

  static constexpr std::size_t kNoteBytesMax = std::size_t{64} << 10;
  /// Replaces the bytes that the control plane keeps for a successor; one call at a time. False:
  /// too many.
  bool Note(std::span<const std::byte> bytes);
  std::span<const std::byte> note() const;

 private:
  struct Header;

  explicit State(std::unique_ptr<Memory> memory);
  Header& header() const;

  const std::unique_ptr<Memory> memory_;
  bool adopted_ = false;
};

}  // namespace farswap::tier
