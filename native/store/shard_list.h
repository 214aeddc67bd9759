// Which objects and shards of a volume a store keeps, read from RocksDB's keys. A shard has two
// ranges of keys: its slots and its bundles.
#pragma once

#include <rocksdb/status.h>

#include <cstdint>
#include <vector>

#include "store/protocol.h"
#include "store/rocks.h"

namespace farswap::store {

/// Reads the shard's objects from key `cursor` on, kListedEntriesMax at most, by ascending key.
rocksdb::Status ListShard(Rocks* rocks, std::uint64_t volume_id, std::uint64_t shard,
                          std::uint64_t cursor, ShardList* list);

/// The shards of which the store keeps an object, ascending.
rocksdb::Status FindShards(Rocks* rocks, std::uint64_t volume_id,
                           std::vector<std::uint64_t>* shards);

}  // namespace farswap::store
