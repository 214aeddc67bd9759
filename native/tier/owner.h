// Whose page a slot holds, and whether the kernel has freed it. The slot's word (slot_words.h)
// names the cgroup of a page; without one the export's label does; else the page is the root
// group's.
//
// Threads: any. Methods that take a slot are called with its lock held: what they return holds
// until it is released.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "tier/pages.h"
#include "tier/slot_words.h"

namespace farswap::tier {

class SlotOwners {
 public:
  /// `pages` outlives it.
  explicit SlotOwners(Pages* pages) : pages_(*pages) {}

  /// See Tier::UseSlotWords(). Takes the locks of all slots.
  void UseWords(const std::atomic<SlotWord>* words);
  void SetLabel(CgroupId id) { label_.store(id, std::memory_order_relaxed); }

  /// The cgroup of the slot's page; kUnknownCgroup for an empty slot and the root group.
  CgroupId OwnerOf(SlotIndex slot) const { return pages_.groups().Of(pages_.Get(slot)).id; }

  /// The group of the page that is stored in the slot next.
  GroupIndex GroupOf(SlotIndex slot) const;
  /// Sets group and sequence of the record of such a page.
  void Attribute(SlotIndex slot, SlotRecord* next) const;

  /// Of the slot's word; nothing without words.
  std::optional<std::uint32_t> SequenceOf(SlotIndex slot) const;
  /// The same, if the kernel has freed the slot since its last write.
  std::optional<std::uint32_t> FreedAt(SlotIndex slot) const;
  /// Forgets the slot's page if the kernel has freed it. False: it did not, or there is none.
  bool ForgetFreed(SlotIndex slot);

 private:
  const std::atomic<SlotWord>* words() const { return words_.load(std::memory_order_relaxed); }
  std::optional<SlotWord> WordOf(SlotIndex slot) const {
    const auto* all = words();
    if (all == nullptr) return std::nullopt;
    return all[slot].load(std::memory_order_acquire);
  }
  // False: neither word nor label names a cgroup.
  bool FindGroup(SlotIndex slot, SlotRecord* next) const;
  void NoteEarlierSequence(SlotIndex slot, SlotWord word);

  Pages& pages_;
  std::atomic<const std::atomic<SlotWord>*> words_{nullptr};
  std::atomic<CgroupId> label_{kUnknownCgroup};
};

}  // namespace farswap::tier
