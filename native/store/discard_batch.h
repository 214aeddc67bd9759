// A part of a Discard call: as many items as are read from RocksDB at once.
#pragma once

#include <rocksdb/status.h>

#include <cstdint>
#include <span>

#include "store/protocol.h"
#include "store/rocks.h"
#include "store/volume.h"
#include "store/volume_table.h"

namespace farswap::store {

/// Deletes objects of the items' versions or lower ones in one atomic write, and adds their number
/// to `discarded`. `items`: at most kBatchObjectsMax. `written` is RocksDB's status.
///
/// An object in a damaged block is not deleted, since its version is unknown: a discard may arrive
/// after a newer object was put, whose record a repeated read may still deliver, and which may have
/// no other copy. Then `written` is kCorruption: the caller repeats the items, and finds the block
/// repaired (FileCleaner).
CallStatus DiscardBatch(Rocks* rocks, VolumeTable* volumes, Volume* volume, std::uint64_t epoch,
                        std::span<const DiscardItem> items, std::uint64_t* discarded,
                        rocksdb::Status* written);

}  // namespace farswap::store
