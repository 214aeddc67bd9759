// Compaction: the entries of a sparse slab are copied into other slabs of its class, so that the
// slab can serve another class. Runs on the shrinker's thread alone.
#include <cstring>

#include "tier/tier_impl.h"

namespace farswap::tier {

// Interleavings to survive: the entry is freed, overwritten, isolated for writeback or its slot
// trimmed between BeginDrain() and here. All of them change the slot's record, which is looked at
// under its lock; an entry of a draining slab cannot be allocated again meanwhile.
bool TierImpl::MoveEntry(EntryRef from) {
  const SlotIndex slot = pool_->At(from)->slot.load(std::memory_order_relaxed);
  if (slot == kNoSlot) return true;
  const auto lock = table_->Lock(slot);
  SlotRecord record = table_->Get(slot);
  if (!record.InPool() || record.object.entry != from) return true;
  const std::size_t bytes = pool_->At(from)->object_bytes();
  const EntryRef to = pool_->Allocate(bytes);
  if (to == kNoEntry) return false;
  std::memcpy(pool_->Bytes(to), pool_->Bytes(from), bytes);
  pool_->At(to)->CopyDescription(*pool_->At(from));
  pool_->At(to)->slot.store(slot, std::memory_order_relaxed);
  const auto group = groups_.Lock(record.group);
  const bool writing = record.state == SlotState::kWriting;
  if (!writing) group->lru.Replace(from, to);
  // One of the two may be in a slab of a class that helped out.
  const auto more = static_cast<std::int64_t>(pool_->EntryBytesOf(to)) -
                    static_cast<std::int64_t>(pool_->EntryBytesOf(from));
  if (more != 0) groups_.Add(group, {more, writing ? more : 0, 0});
  record.object.entry = to;
  table_->Set(slot, record);
  pool_->Free(from);
  group->Count(Counter::compactions);
  return true;
}

bool TierImpl::CompactOneSlab(Pool::Drain* drain) {
  const std::uint32_t before = pool_->free_slabs();
  if (!pool_->BeginDrain(drain)) return false;
  for (const EntryRef entry : drain->entries) {
    if (!MoveEntry(entry)) break;
  }
  pool_->EndDrain(*drain);
  stores_.RoomMade();
  return pool_->free_slabs() > before;
}

}  // namespace farswap::tier
