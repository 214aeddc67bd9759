#include "tier/stale.h"

#include <bit>

namespace farswap::tier {

StaleObjects::StaleObjects(std::uint64_t slots)
    : chunks_((slots / kChunkSlots + 64) / 64), bundles_(slots / kChunkSlots + 1) {}

void StaleObjects::Mark(SlotIndex slot) {
  const SlotIndex chunk = slot / kChunkSlots;
  chunks_[chunk / 64].fetch_or(std::uint64_t{1} << chunk % 64);
  if (!any_.exchange(true)) on_first_mark_();
}

void StaleObjects::MarkBundle(SlotIndex slot) {
  bundles_[slot / kChunkSlots].fetch_or(1u << slot / kBundleSlots % kChunkBundles);
  Mark(slot);
}

std::optional<StaleObjects::Chunk> StaleObjects::TakeChunk(SlotIndex from) {
  std::size_t chunk = from / kChunkSlots;
  for (; chunk / 64 < chunks_.size(); chunk = (chunk / 64 + 1) * 64) {
    const std::uint64_t marked = chunks_[chunk / 64].load() >> chunk % 64;
    if (marked == 0) continue;
    chunk += static_cast<std::size_t>(std::countr_zero(marked));
    chunks_[chunk / 64].fetch_and(~(std::uint64_t{1} << chunk % 64));
    return Chunk{static_cast<SlotIndex>(chunk * kChunkSlots), bundles_[chunk].exchange(0)};
  }
  return std::nullopt;
}

void StaleObjects::PutBack(const Chunk& chunk) {
  bundles_[chunk.first / kChunkSlots].fetch_or(chunk.bundles);
  Mark(chunk.first);
}

}  // namespace farswap::tier
