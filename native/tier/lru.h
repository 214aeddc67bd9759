// One LRU of entries: a doubly linked list through the entries' headers, hot end to cold end.
//
// Thread-safe; its mutex comes after a slot's lock and before nothing. There is one LRU in this
// version; the split by cgroup makes it one per group.
#pragma once

#include <cstdint>
#include <mutex>

#include "tier/pool.h"

namespace farswap::tier {

class Lru {
 public:
  explicit Lru(Pool* pool) : pool_(pool) {}

  void AddHot(EntryRef ref) {
    std::lock_guard lock(mutex_);
    LinkBetween(ref, hottest_, kNoEntry);
  }

  void AddCold(EntryRef ref) {
    std::lock_guard lock(mutex_);
    LinkBetween(ref, kNoEntry, coldest_);
  }

  void Remove(EntryRef ref) {
    std::lock_guard lock(mutex_);
    Unlink(ref);
  }

  void MoveToHot(EntryRef ref) {
    std::lock_guard lock(mutex_);
    Unlink(ref);
    LinkBetween(ref, hottest_, kNoEntry);
  }

  /// Puts `to` where `from` is: the entry was copied.
  void Replace(EntryRef from, EntryRef to) {
    std::lock_guard lock(mutex_);
    const EntryRef colder = pool_->At(from)->colder;
    const EntryRef hotter = pool_->At(from)->hotter;
    Unlink(from);
    LinkBetween(to, colder, hotter);
  }

  struct Candidate {
    EntryRef entry = kNoEntry;
    SlotIndex slot = kNoSlot;
  };
  /// The coldest entry and its slot, as a hint: lock the slot, then see whether it still holds the
  /// entry. (The slot's lock comes first in the lock order, so it cannot be taken from here.)
  Candidate Coldest() {
    std::lock_guard lock(mutex_);
    if (coldest_ == kNoEntry) return {};
    return {coldest_, pool_->At(coldest_)->slot.load(std::memory_order_relaxed)};
  }

  std::uint64_t size() {
    std::lock_guard lock(mutex_);
    return size_;
  }

 private:
  void LinkBetween(EntryRef ref, EntryRef colder, EntryRef hotter) {
    Entry* entry = pool_->At(ref);
    entry->colder = colder;
    entry->hotter = hotter;
    (colder == kNoEntry ? coldest_ : pool_->At(colder)->hotter) = ref;
    (hotter == kNoEntry ? hottest_ : pool_->At(hotter)->colder) = ref;
    ++size_;
  }

  void Unlink(EntryRef ref) {
    const Entry* entry = pool_->At(ref);
    const EntryRef colder = entry->colder;
    const EntryRef hotter = entry->hotter;
    (colder == kNoEntry ? coldest_ : pool_->At(colder)->hotter) = hotter;
    (hotter == kNoEntry ? hottest_ : pool_->At(hotter)->colder) = colder;
    --size_;
  }

  Pool* const pool_;
  std::mutex mutex_;
  EntryRef hottest_ = kNoEntry;
  EntryRef coldest_ = kNoEntry;
  std::uint64_t size_ = 0;
};

}  // namespace farswap::tier
