// Memory for entries: size-class slabs in the state's memory, which is allocated at start.
//
//   memory    │ slab 0 │ slab 1 │ … │ descriptors of the slabs │
//   slab      │ entry │ entry │ … │          of one size class, until its last entry is freed
//   entry     │ header, 16 bytes │ object │   named by EntryRef: no pointers in the memory
//
// A slab holds exactly eight uncompressed pages with their headers.
//
// Thread-safe. Lock order: a class's mutex, then the mutex of the free slabs; nothing else is
// locked while they are held.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "base/result.h"
#include "tier/page.h"

namespace farswap::tier {

/// Offset of an entry in the pool, in units of 16 bytes.
using EntryRef = std::uint32_t;
inline constexpr EntryRef kNoEntry = 0xffffffff;
inline constexpr SlotIndex kNoSlot = 0xffffffff;

/// Header of an entry. The links are guarded by the mutex of the entry's group, what Describe()
/// sets by its slot's lock.
struct Entry {
  EntryRef colder;
  EntryRef hotter;
  std::atomic<SlotIndex> slot;  // kNoSlot while free or not published yet

  /// The unit of time, which wraps after 48 days.
  static constexpr std::uint32_t kTickSeconds = 4;

  void Describe(std::size_t object_bytes, std::uint32_t stored_boot_s) {
    length_and_time = static_cast<std::uint32_t>(object_bytes - 1) | stored_boot_s / kTickSeconds
                                                                         << kLengthBits;
  }
  void CopyDescription(const Entry& other) { length_and_time = other.length_and_time; }
  std::size_t object_bytes() const {
    return (length_and_time & ((1u << kLengthBits) - 1)) + std::size_t{1};
  }
  /// Seconds since it was stored, to within a tick; 0 if it was stored after `now_boot_s`, which
  /// the caller may have read some time ago.
  std::uint32_t AgeSeconds(std::uint32_t now_boot_s) const {
    const std::uint32_t now = now_boot_s / kTickSeconds << kLengthBits;
    const std::uint32_t then = length_and_time >> kLengthBits << kLengthBits;
    const std::uint32_t ticks = (now - then) >> kLengthBits;
    return ticks >= kTicksMax - kLateTicksMax ? 0 : ticks * kTickSeconds;
  }

  static constexpr unsigned kLengthBits = 12;  // 1..4096 bytes
  static constexpr std::uint32_t kTicksMax = 1u << (32 - kLengthBits);
  static constexpr std::uint32_t kLateTicksMax = 16;  // a minute
  std::uint32_t length_and_time = 0;
};
static_assert(sizeof(Entry) == 16);

class Pool {
  static constexpr std::uint32_t kNoSlab = 0xffffffff;
  static constexpr std::uint32_t kSlabUnits = 8 * (sizeof(Entry) + kPageBytes) / 16;
  static constexpr std::uint16_t kEndOfList = 0xffff;
  static constexpr std::size_t kClassesMax = 96;

  struct Slab {
    std::uint32_t previous = kNoSlab;  // in its class's list of slabs with room, or the free list
    std::uint32_t next = kNoSlab;
    std::uint16_t size_class = 0;
    std::uint16_t used = 0;
    std::uint16_t free_head = kEndOfList;  // a freed entry's next is in its first two bytes
    std::uint16_t untouched = 0;           // entries from this index on were never handed out
    bool listed = false;
    bool draining = false;
  };

 public:
  static constexpr std::size_t kAlignBytes = 16;
  static constexpr std::size_t kSlabBytes = 8 * (sizeof(Entry) + kPageBytes);
  static constexpr std::size_t kObjectBytesMax = kPageBytes;
  /// Room for a slab of every size class and some.
  static constexpr std::uint64_t kPoolBytesMin = std::uint64_t{4} << 20;

  /// Fails if a pool cannot have so many bytes.
  static Outcome CheckSize(std::uint64_t bytes_max);
  /// Of a size that passed CheckSize(). All entries are free; see Recovery for memory that has
  /// some.
  explicit Pool(std::span<std::byte> memory);

  /// Which entries of the memory are in use, before any other call: those that a record names. No
  /// record names one of a free slab, so a slab whose process died while it took it, with any
  /// class, has none.
  class Recovery {
   public:
    explicit Recovery(Pool* pool);

    /// A record names the entry. False: the memory has none there.
    bool Claim(EntryRef ref) {
      const std::uint32_t slab = ref / kSlabUnits;
      if (slab >= claimed_.size()) return false;
      ++claimed_[slab];
      return true;
    }
    /// All entries but those in use are free from now on. in_use(ref) is called for the entries of
    /// slabs with claims, by ascending address, and reads what Allocate() and its callers wrote,
    /// also of entries that were never allocated; soon(ref) is called a moment before. False: some
    /// slab has another number in use than was claimed.
    template <typename Soon, typename InUse>
    bool Finish(Soon soon, InUse in_use) {
      for (std::uint32_t index = 0; index < claimed_.size(); ++index) {
        if (claimed_[index] > 0 && !FinishSlab(index, soon, in_use)) return false;
        pool_->TakeOver(index);
      }
      return true;
    }

   private:
    template <typename Soon, typename InUse>
    bool FinishSlab(std::uint32_t index, Soon soon, InUse in_use) {
      Slab& slab = pool_->slabs_[index];
      const std::uint16_t capacity = pool_->CapacityOf(slab);
      const auto ref = [&](std::uint16_t position) {
        return pool_->RefOf(index, position, slab.size_class);
      };
      for (std::uint16_t position = 0; position < capacity; ++position) soon(ref(position));
      for (std::uint16_t position = 0; position < capacity; ++position) {
        if (in_use(ref(position))) {
          ++slab.used;
        } else {
          pool_->PushFree(&slab, position, ref(position));
        }
      }
      return slab.used == claimed_[index];
    }

    Pool* const pool_;
    std::vector<std::uint32_t> claimed_;  // by slab
  };

  /// An unpublished entry with room for an object of `object_bytes` (1..kObjectBytesMax), of its
  /// own class or a slightly larger one; kNoEntry: there is no room.
  EntryRef Allocate(std::size_t object_bytes);
  void Free(EntryRef ref);

  Entry* At(EntryRef ref) const {
    return reinterpret_cast<Entry*>(memory_ + std::uint64_t{ref} * kAlignBytes);
  }
  std::byte* Bytes(EntryRef ref) const {
    return memory_ + std::uint64_t{ref} * kAlignBytes + sizeof(Entry);
  }

  /// Entries of one sparse slab, to be moved elsewhere so that the slab becomes free. Until
  /// EndDrain() nothing is allocated from that slab.
  struct Drain {
    std::uint32_t slab = 0;
    std::vector<EntryRef> entries;  // capacity is kept from call to call
  };
  /// False when no class has a slab's worth of room outside its sparsest slab.
  bool BeginDrain(Drain* drain);
  void EndDrain(const Drain& drain);

  /// For tests, while nothing else runs: how many entries are in use, or what does not fit that.
  Result<std::uint64_t> Check(const std::function<bool(EntryRef)>& in_use) const;

  /// How many slabs may be in use, at most all; what is beyond goes back as it becomes free.
  void SetSlabLimit(std::uint32_t slabs);

  /// Of what may be in use.
  std::uint64_t capacity_bytes() const { return std::uint64_t{slab_limit()} * kSlabBytes; }
  std::uint64_t used_bytes() const { return std::uint64_t{used_slabs()} * kSlabBytes; }
  std::uint64_t entry_bytes() const { return entry_bytes_.load(std::memory_order_relaxed); }
  std::uint32_t slab_limit() const { return slab_limit_.load(std::memory_order_relaxed); }
  std::uint32_t used_slabs() const {
    return slab_count_ - free_slab_count_.load(std::memory_order_relaxed);
  }
  /// Slabs that may still be taken.
  std::uint32_t free_slabs() const {
    const std::uint32_t limit = slab_limit();
    const std::uint32_t used = used_slabs();
    return limit > used ? limit - used : 0;
  }

  /// Of the size classes: which entry a reference names depends on them.
  static std::uint64_t LayoutHash();

  /// Bytes an object of this size takes, header and rounding included, in a class of its own.
  static std::size_t EntryBytes(std::size_t object_bytes);
  /// Bytes that a live entry takes: those of the class that it was allocated from.
  std::size_t EntryBytesOf(EntryRef ref) const;

 private:
  struct alignas(64) SizeClass {
    std::mutex mutex;
    std::uint32_t with_room = kNoSlab;
    std::uint64_t free_entries = 0;  // in slabs of this class
  };

  static std::uint16_t CapacityOf(const Slab& slab);
  void PushFree(Slab* slab, std::uint16_t position, EntryRef ref);
  void TakeOver(std::uint32_t index);
  EntryRef AllocateFrom(std::size_t size_class, bool may_take_slab);
  bool TakeSlab(std::size_t size_class);
  void ReturnSlab(std::uint32_t index);
  void Link(SizeClass& size_class, std::uint32_t index);
  void Unlink(SizeClass& size_class, std::uint32_t index);
  EntryRef RefOf(std::uint32_t slab, std::size_t index, std::size_t size_class) const;

  std::byte* const memory_;
  const std::uint32_t slab_count_;
  Slab* const
      slabs_;  // behind the slabs; each guarded by its class's mutex, free ones by free_mutex_
  std::array<SizeClass, kClassesMax> classes_;
  std::mutex free_mutex_;
  std::uint32_t free_list_ = kNoSlab;
  std::atomic<std::uint32_t> free_slab_count_{0};
  std::atomic<std::uint32_t> slab_limit_;
  std::atomic<std::uint64_t> entry_bytes_{0};
};

}  // namespace farswap::tier
