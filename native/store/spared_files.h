// The file system for RocksDB: full only when the ballast is used up, and without fatal errors.
// Private to store/.
//
// - A write or a new file that finds the disk or a quota full deletes a part of the ballast and
//   goes on where it stopped, without an error.
// - Compactions get no ballast. Without room for its output a compaction fails at its first file,
//   or later if other programs use up the room; RocksDB deletes its output and tries again.
// - Every other error is marked as retryable. RocksDB then stops writing, or repeats a compaction;
//   without the mark a failed compaction would stop writing too. NoSpace becomes a plain I/O error:
//   RocksDB 7.8 would try to recover from it, and fail its own assertions.
#pragma once

#include <rocksdb/file_system.h>
#include <rocksdb/listener.h>

#include <memory>

#include "store/room.h"

namespace farswap::store {

/// `room` must outlive it.
std::shared_ptr<rocksdb::FileSystem> MakeSparedFiles(
    const std::shared_ptr<rocksdb::FileSystem>& files, Room* room);

/// Records which of RocksDB's threads compact, and why.
std::shared_ptr<rocksdb::EventListener> MakeCompactionWatch(
    std::shared_ptr<rocksdb::FileSystem> files, Room* room);

}  // namespace farswap::store
