// From the id of a cgroup to the index of its group: open addressing in an array of 64-bit words,
// id:32 | used:1 | index:16.
//
// Find() takes no lock. The other methods are for one thread at a time. Erase() moves words: a
// reader may miss an id meanwhile, and must try again under the lock of that thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "tier/slot_table.h"
#include "tier/slot_words.h"

namespace farswap::tier {

class CgroupMap {
 public:
  static constexpr GroupIndex kNone = 0xffff;
  /// It must hold no more.
  static constexpr std::size_t kIdsMax = 8192;

  CgroupMap() : words_(new std::atomic<std::uint64_t>[kWords]()) {}

  GroupIndex Find(CgroupId id) const {
    for (std::size_t i = HomeOf(id);; i = (i + 1) % kWords) {
      const std::uint64_t word = words_[i].load(std::memory_order_acquire);
      if (word == 0) return kNone;
      if (IdOf(word) == id) return IndexOf(word);
    }
  }
  void Set(CgroupId id, GroupIndex index);
  void Erase(CgroupId id);
  /// Redirects all ids of one group to another.
  void Redirect(GroupIndex from, GroupIndex to);

 private:
  static constexpr std::size_t kWords = 2 * kIdsMax;

  static constexpr std::uint64_t Pack(CgroupId id, GroupIndex index) {
    return std::uint64_t{id} << 32 | std::uint64_t{1} << 16 | index;
  }
  static constexpr CgroupId IdOf(std::uint64_t word) { return static_cast<CgroupId>(word >> 32); }
  static constexpr GroupIndex IndexOf(std::uint64_t word) { return static_cast<GroupIndex>(word); }
  static constexpr std::size_t HomeOf(CgroupId id) {
    static_assert(kWords == std::size_t{1} << 14);
    return id * std::uint64_t{0x9e3779b97f4a7c15} >> 50;
  }
  // Where the id is, or where it would go.
  std::size_t PlaceOf(CgroupId id) const;

  const std::unique_ptr<std::atomic<std::uint64_t>[]> words_;
};

}  // namespace farswap::tier
