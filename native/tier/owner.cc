#include "tier/owner.h"

namespace farswap::tier {

void SlotOwners::UseWords(const std::atomic<SlotWord>* words) {
  if (words != nullptr) {
    pages_.ForEach(0, pages_.slots(),
                   [&](SlotIndex slot) { NoteEarlierSequence(slot, words[slot]); });
  }
  words_.store(words, std::memory_order_release);
  pages_.WaitForHolders();
}

// Sets the record's sequence to the one before that of the slot's next store: a sequence of other
// words, or of too many frees ago, may equal that of the next write, which would then look unseen.
// The page of a slot that is free already is kept, since it may have been stored after the free.
// For a slot in use a write may be on its way.
void SlotOwners::NoteEarlierSequence(SlotIndex slot, SlotWord word) {
  const std::uint32_t before = tier::SequenceOf(word) - (IsFree(word) ? 0 : 1);
  pages_.NoteSequence(slot, static_cast<std::uint8_t>(before));
}

// If the word has not changed since the slot's last store, the kernel's hook did not see this one.
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

// A FREE word that has changed since the store means that the page was freed and that no page was
// written since. A page on its way here takes the lock later, and finds the slot empty.
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
