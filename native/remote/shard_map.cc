#include "remote/shard_map.h"

namespace farswap::remote {

ShardMap::ShardMap(std::uint64_t slots, std::uint64_t seed)
    : shards_((slots + tier::kShardSlots - 1) / tier::kShardSlots),
      map_(std::make_unique<std::atomic<MemberIndex>[]>(shards_)),
      random_(seed) {
  for (std::size_t shard = 0; shard < shards_; ++shard) map_[shard] = kNoMember;
}

std::optional<MemberIndex> ShardMap::MemberOf(tier::ObjectKey key) const {
  const std::size_t shard = ShardOf(key);
  if (shard >= shards_) return std::nullopt;
  const MemberIndex member = map_[shard].load();
  return member == kNoMember ? std::nullopt : std::optional(member);
}

std::optional<MemberIndex> ShardMap::Place(tier::ObjectKey key, const Candidate* candidates,
                                           std::size_t count, MemberIndex former) {
  if (ShardOf(key) >= shards_) return std::nullopt;
  MemberIndex placed = map_[ShardOf(key)].load();
  if (placed != former) return placed;
  if (count == 0) return std::nullopt;
  const std::size_t first = Random() % count;
  // Another one than the first, where there is another.
  const std::size_t second = count > 1 ? (first + 1 + Random() % (count - 1)) % count : first;
  const bool take_second = candidates[second].free_bytes > candidates[first].free_bytes;
  const MemberIndex chosen = candidates[take_second ? second : first].member;
  if (!map_[ShardOf(key)].compare_exchange_strong(placed, chosen)) return placed;
  if (former != kNoMember) counts_[former].fetch_sub(1);
  counts_[chosen].fetch_add(1);
  return chosen;
}

// splitmix64: one atomic step, so that any thread may draw. S. Vigna, public domain.
std::uint64_t ShardMap::Random() {
  std::uint64_t z = random_.fetch_add(0x9e3779b97f4a7c15u) + 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace farswap::remote
