// Slot words: owner and free state of each slot, from programs in the kernel (bpf/).
//
// One 64-bit word per slot, in an array that is shared with its only writer:
//   bits 63..32  id of the cgroup that the page was charged to when it was written; 0: none
//   bits 31..1   sequence, raised by every write and by every free of the slot
//   bit 0        1: the kernel has freed the slot since that write
// The word of a write is in place before the write is here.
#pragma once

#include <cstdint>

namespace farswap::tier {

/// Low 32 bits of the inode number of the cgroup's directory, which is the kernel's id of it.
using CgroupId = std::uint32_t;
inline constexpr CgroupId kUnknownCgroup = 0;

using SlotWord = std::uint64_t;

constexpr CgroupId CgroupOf(SlotWord word) { return static_cast<CgroupId>(word >> 32); }
constexpr std::uint32_t SequenceOf(SlotWord word) { return static_cast<std::uint32_t>(word) >> 1; }
constexpr bool IsFree(SlotWord word) { return (word & 1) != 0; }

}  // namespace farswap::tier
