// Which memory server keeps a shard. The host is the only writer of its map: a shard is placed when
// its first page is written, and stays there. One replica in this version; with several, a shard's
// entry becomes a short list of servers, ServerOf() the nearest healthy one of it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "tier/page.h"

namespace farswap::remote {

using ServerIndex = std::uint16_t;

/// A server that a new shard may be placed on.
struct Candidate {
  ServerIndex server;
  std::uint64_t free_bytes;
};

/// Thread-safe, without locks: a shard's entry changes once, from none to a server.
class ShardMap {
 public:
  static constexpr std::size_t kServersMax = 256;

  /// `seed` decides which two servers each shard may choose between.
  ShardMap(std::uint64_t slots, std::size_t servers, std::uint64_t seed);

  static std::size_t ShardOf(tier::ObjectKey key) {
    return tier::FirstSlotOf(key) / tier::kShardSlots;
  }
  std::size_t shards() const { return shards_; }

  /// Nothing when the object's shard was never placed, or is not on the device.
  std::optional<ServerIndex> ServerOf(tier::ObjectKey key) const;

  /// The shard's server. A shard without one gets the emptier of two random candidates (the power
  /// of two choices: M. Mitzenmacher, IEEE TPDS 12(10), 2001); nothing when there are none.
  std::optional<ServerIndex> Place(tier::ObjectKey key, const Candidate* candidates,
                                   std::size_t count);

  /// Shards placed on the server.
  std::uint32_t ShardCount(ServerIndex server) const { return counts_[server].load(); }

 private:
  static constexpr ServerIndex kNone = 0xffff;

  std::uint64_t Random();

  const std::size_t shards_;
  std::unique_ptr<std::atomic<ServerIndex>[]> map_;
  std::unique_ptr<std::atomic<std::uint32_t>[]> counts_;
  std::atomic<std::uint64_t> random_;
};

}  // namespace farswap::remote
