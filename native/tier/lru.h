// One LRU of entries: a doubly linked list through the entries' headers, hot end to cold end. The
// mutex of its group guards it; its size can be read without.
#pragma once

#include <atomic>
#include <cstdint>

#include "tier/pool.h"

namespace farswap::tier {

class Lru {
 public:
  void Init(Pool* pool) { pool_ = pool; }

  void AddHot(EntryRef ref) { LinkBetween(ref, hottest_, kNoEntry); }
  void AddCold(EntryRef ref) { LinkBetween(ref, kNoEntry, coldest_); }

  void Remove(EntryRef ref) {
    const Entry* entry = pool_->At(ref);
    const EntryRef colder = entry->colder;
    const EntryRef hotter = entry->hotter;
    (colder == kNoEntry ? coldest_ : pool_->At(colder)->hotter) = hotter;
    (hotter == kNoEntry ? hottest_ : pool_->At(hotter)->colder) = colder;
    size_.store(size() - 1, std::memory_order_relaxed);
  }

  void MoveToHot(EntryRef ref) {
    Remove(ref);
    AddHot(ref);
  }

  /// Puts `to` where `from` is: the entry was copied.
  void Replace(EntryRef from, EntryRef to) {
    const EntryRef colder = pool_->At(from)->colder;
    const EntryRef hotter = pool_->At(from)->hotter;
    Remove(from);
    LinkBetween(to, colder, hotter);
  }

  /// Moves all entries of another LRU to the cold end, in their order.
  void SpliceCold(Lru* other) {
    if (other->coldest_ == kNoEntry) return;
    pool_->At(other->hottest_)->hotter = coldest_;
    (coldest_ == kNoEntry ? hottest_ : pool_->At(coldest_)->colder) = other->hottest_;
    coldest_ = other->coldest_;
    size_.store(size() + other->size(), std::memory_order_relaxed);
    other->coldest_ = other->hottest_ = kNoEntry;
    other->size_.store(0, std::memory_order_relaxed);
  }

  /// Calls f(entry), the hottest first. False: the links do not fit together.
  template <typename F>
  bool ForEach(F f) const {
    EntryRef hotter = kNoEntry;
    std::uint64_t count = 0;
    for (EntryRef ref = hottest_; ref != kNoEntry; ref = pool_->At(ref)->colder) {
      if (pool_->At(ref)->hotter != hotter || ++count > size()) return false;
      f(ref);
      hotter = ref;
    }
    return hotter == coldest_ && count == size();
  }

  struct Hint {
    EntryRef entry = kNoEntry;
    SlotIndex slot = kNoSlot;
  };
  /// The coldest entry and its slot. May be stale: lock the slot, then check that it still holds
  /// the entry. (The slot's lock comes first in the lock order.)
  Hint Coldest() const {
    if (coldest_ == kNoEntry) return {};
    return {coldest_, pool_->At(coldest_)->slot.load(std::memory_order_relaxed)};
  }

  std::uint64_t size() const { return size_.load(std::memory_order_relaxed); }

 private:
  void LinkBetween(EntryRef ref, EntryRef colder, EntryRef hotter) {
    Entry* entry = pool_->At(ref);
    entry->colder = colder;
    entry->hotter = hotter;
    (colder == kNoEntry ? coldest_ : pool_->At(colder)->hotter) = ref;
    (hotter == kNoEntry ? hottest_ : pool_->At(hotter)->colder) = ref;
    size_.store(size() + 1, std::memory_order_relaxed);
  }

  Pool* pool_ = nullptr;
  EntryRef hottest_ = kNoEntry;
  EntryRef coldest_ = kNoEntry;
  std::atomic<std::uint64_t> size_{0};
};

}  // namespace farswap::tier
