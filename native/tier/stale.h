// Stale objects that memory servers may still hold: overwritten or trimmed pages, and bundles that
// hold no slot's page.
//
// One bit per chunk of slots that has some; the slots' records (slot_table.h) say which pages, one
// bit per bundle which bundles. So a mark needs no memory and never fails, however long a server is
// away. A mark is a hint: its taker checks the records under the slots' locks.
//
// Lock-free. Mark() and MarkBundle() are called with the slot's lock held; TakeChunk() by one
// thread, without a lock, before it checks the chunk's slots: later marks count for the next round.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "tier/page.h"
#include "tier/remote_store.h"

namespace farswap::tier {

class StaleObjects {
 public:
  static constexpr SlotIndex kChunkSlots = 512;
  static constexpr SlotIndex kChunkBundles = kChunkSlots / kBundleSlots;
  static_assert(kChunkSlots + kChunkBundles <= RemoteStore::kDiscardsMax);
  static_assert(kShardSlots % kChunkSlots == 0);

  explicit StaleObjects(std::uint64_t slots);

  /// Called at the first mark of a round, with the slot's lock held. Set before any mark.
  void OnFirstMark(std::function<void()> call) { on_first_mark_ = std::move(call); }

  /// The slot's record says that its remote page is stale.
  void Mark(SlotIndex slot);
  /// The bundle of the slot's bundle slots holds no slot's page.
  void MarkBundle(SlotIndex slot);

  /// Marks were made in this round.
  bool any() const { return any_.load(); }
  void BeginRound() { any_.store(false); }

  struct Chunk {
    SlotIndex first;        // of kChunkSlots
    std::uint32_t bundles;  // bit i: its i-th bundle
  };
  /// Takes the marks of the first chunk at or behind `from` that has any.
  std::optional<Chunk> TakeChunk(SlotIndex from);
  /// For the next round.
  void PutBack(const Chunk& chunk);

 private:
  std::vector<std::atomic<std::uint64_t>> chunks_;
  std::vector<std::atomic<std::uint32_t>> bundles_;  // by chunk
  static_assert(kChunkBundles == 32);
  std::atomic<bool> any_{false};
  std::function<void()> on_first_mark_ = [] {};
};

}  // namespace farswap::tier
