#include "tier/cgroup_map.h"

namespace farswap::tier {

std::size_t CgroupMap::PlaceOf(CgroupId id) const {
  std::size_t i = HomeOf(id);
  while (true) {
    const std::uint64_t word = words_[i].load(std::memory_order_relaxed);
    if (word == 0 || IdOf(word) == id) return i;
    i = (i + 1) % kWords;
  }
}

void CgroupMap::Set(CgroupId id, GroupIndex index) {
  words_[PlaceOf(id)].store(Pack(id, index), std::memory_order_release);
}

// Moves what the gap would hide from a search into it.
void CgroupMap::Erase(CgroupId id) {
  std::size_t gap = PlaceOf(id);
  if (words_[gap].load(std::memory_order_relaxed) == 0) return;
  for (std::size_t next = (gap + 1) % kWords;; next = (next + 1) % kWords) {
    const std::uint64_t word = words_[next].load(std::memory_order_relaxed);
    if (word == 0) break;
    const std::size_t home = HomeOf(IdOf(word));
    const bool stays = (next + kWords - home) % kWords < (next + kWords - gap) % kWords;
    if (stays) continue;
    words_[gap].store(word, std::memory_order_release);
    gap = next;
  }
  words_[gap].store(0, std::memory_order_release);
}

void CgroupMap::Redirect(GroupIndex from, GroupIndex to) {
  for (std::size_t i = 0; i < kWords; ++i) {
    const std::uint64_t word = words_[i].load(std::memory_order_relaxed);
    if (word == 0 || IndexOf(word) != from) continue;
    words_[i].store(Pack(IdOf(word), to), std::memory_order_release);
  }
}

}  // namespace farswap::tier
