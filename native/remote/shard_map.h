// The members of shards. The host is the only writer of its map: a shard is placed when its first
// page is written, and stays there. One replica in this version; with several, an entry becomes a
// short list of members, and MemberOf() returns the nearest healthy one.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "remote/members.h"
#include "tier/page.h"

namespace farswap::remote {

/// A candidate for a new shard.
struct Candidate {
  MemberIndex member;
  std::uint64_t free_bytes;
};

/// Thread-safe, without locks: a shard's entry changes from none to a member, and to another one
/// when the store of that is gone.
class ShardMap {
 public:
  /// `seed` determines the two candidates of each shard.
  ShardMap(std::uint64_t slots, std::uint64_t seed);

  static std::size_t ShardOf(tier::ObjectKey key) {
    return tier::FirstSlotOf(key) / tier::kShardSlots;
  }
  std::size_t shards() const { return shards_; }

  /// nullopt if the object's shard is not placed, or not on the device.
  std::optional<MemberIndex> MemberOf(tier::ObjectKey key) const;

  /// The shard's member. A shard whose member is still `former` gets the emptier of two random
  /// candidates (the power of two choices: M. Mitzenmacher, IEEE TPDS 12(10), 2001); nothing when
  /// there are none.
  std::optional<MemberIndex> Place(tier::ObjectKey key, const Candidate* candidates,
                                   std::size_t count, MemberIndex former = kNoMember);

  /// Shards placed on the member.
  std::uint32_t ShardCount(MemberIndex member) const { return counts_[member].load(); }

 private:
  std::uint64_t Random();

  const std::size_t shards_;
  std::unique_ptr<std::atomic<MemberIndex>[]> map_;
  std::array<std::atomic<std::uint32_t>, Members::kMembersMax> counts_{};
  std::atomic<std::uint64_t> random_;
};

}  // namespace farswap::remote
