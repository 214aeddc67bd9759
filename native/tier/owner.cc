#include "tier/owner.h"

namespace farswap::tier {

void SlotOwners::UseWords(const std::atomic<SlotWord>* words) {
  std::uint64_t slot = words != nullptr ? 0 : pages_.slots();
  while (slot < pages_.slots()) {
    const auto lock = pages_.Lock(static_cast<SlotIndex>(slot));
    for (const std::uint64_t end = pages_.BundleEnd(static_cast<SlotIndex>(slot)); slot < end;
         ++slot) {
      NoteEarlierSequence(static_cast<SlotIndex>(slot), words[slot]);
    }
  }
  words_.store(words, std::memory_order_release);
  pages_.WaitForHolders();
}

// Lets the record's sequence be the one before that of the slot's next store. What a record keeps
// of other words, or of too many frees ago, is a number that the next write may well come to, and
// then pass for none. The page of a slot that is free already is kept: whether it came before that
// is not known. Of one in use, a write may be on its way to us.
void SlotOwners::NoteEarlierSequence(SlotIndex slot, SlotWord word) {
  const std::uint32_t before = tier::SequenceOf(word) - (IsFree(word) ? 0 : 1);
  pages_.NoteSequence(slot, static_cast<std::uint8_t>(before));
}

// A store whose word has not changed since the one before was not seen by the kernel's hook: the
// programs are gone, and who wrote is not known.
bool SlotOwners::FindGroup(SlotIndex slot, SlotRecord* next) const {
  const SlotRecord& old = pages_.Get(slot);
  next->sequence = old.sequence;
  CgroupId id = kUnknownCgroup;
  if (const std::optional<SlotWord> word = WordOf(slot)) {
    next->sequence = static_cast<std::uint8_t>(tier::SequenceOf(*word));
    if (next->sequence != old.sequence) id = CgroupOf(*word);
  }
  if (id == kUnknownCgroup) id = label_.load(std::memory_order_relaxed);
  next->group = pages_.groups().Find(id);
  return id != kUnknownCgroup;
}

GroupIndex SlotOwners::GroupOf(SlotIndex slot) const {
  SlotRecord record;
  FindGroup(slot, &record);
  return record.group;
}

void SlotOwners::Attribute(SlotIndex slot, SlotRecord* next) const {
  if (FindGroup(slot, next) || words() == nullptr) return;
  pages_.groups().At(next->group).Count(Counter::stores_unattributed);
}

std::optional<std::uint32_t> SlotOwners::SequenceOf(SlotIndex slot) const {
  const std::optional<SlotWord> word = WordOf(slot);
  return word ? std::optional(tier::SequenceOf(*word)) : std::nullopt;
}

std::optional<std::uint32_t> SlotOwners::FreedAt(SlotIndex slot) const {
  const std::optional<SlotWord> word = WordOf(slot);
  return word && IsFree(*word) ? std::optional(tier::SequenceOf(*word)) : std::nullopt;
}

// The word was FREE when it was looked at under the slot's lock, and not the one of the store: that
// store's page was freed, and none was written since, or its word would not be FREE. A page that is
// on its way to us in spite of that has not taken the lock yet, and will find the slot empty.
bool SlotOwners::ForgetFreed(SlotIndex slot) {
  const std::optional<SlotWord> word = WordOf(slot);
  if (!word) return false;
  const SlotRecord& old = pages_.Get(slot);
  if (old.state == SlotState::kEmpty) {
    NoteEarlierSequence(slot, *word);
    return false;
  }
  const auto sequence = static_cast<std::uint8_t>(tier::SequenceOf(*word));
  if (!IsFree(*word) || sequence == old.sequence) {
    pages_.groups().Of(old).Count(Counter::early_frees_kept);
    return false;
  }
  pages_.Forget(slot, Counter::early_frees, sequence);
  return true;
}

}  // namespace farswap::tier
