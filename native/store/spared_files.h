// The file system as RocksDB sees it: full only when the ballast is used up, and never broken for
// good. Private to store/.
//
// - A write, or a file to be made, that finds the disk or a quota full gives a part of the ballast
//   up and goes on where it stopped. RocksDB never hears of it.
// - Compactions get no ballast. One that lacks room for its output is refused its first file, and
//   one that others have taken the room of fails; RocksDB deletes what it wrote and tries again.
// - Every other error is marked as one to try again after. RocksDB then stops writing, or repeats
//   the compaction, which without the mark would stop writing too. NoSpace is no longer told apart,
//   since RocksDB 7.8 would try to recover from it, and run into its own assertions.
#pragma once

#include <rocksdb/file_system.h>
#include <rocksdb/listener.h>

#include <memory>

#include "store/room.h"

namespace farswap::store {

/// `room` outlives it.
std::shared_ptr<rocksdb::FileSystem> MakeSparedFiles(
    const std::shared_ptr<rocksdb::FileSystem>& files, Room* room);

/// Tells the files which of RocksDB's threads compact, and what for.
std::shared_ptr<rocksdb::EventListener> MakeCompactionWatch(
    std::shared_ptr<rocksdb::FileSystem> files, Room* room);

}  // namespace farswap::store
