// The RocksDB of a store: options, column families, opening and closing. Private to store/.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/file_system.h>
#include <rocksdb/write_batch.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "base/result.h"
#include "store/damaged_files.h"
#include "store/record.h"
#include "store/room.h"

namespace farswap::store {

/// Size of the first level below level 0, in memtables of pages.
inline constexpr std::uint64_t kLevelBaseMemtables = 8;

struct RocksConfig {
  std::string path;  // its parent must exist
  std::uint64_t block_cache_bytes = 0;
  Room* room = nullptr;  // outlives the database
  std::shared_ptr<rocksdb::FileSystem> files;
};

/// Why RocksDB has stopped writing, if so.
class WriteError {
 public:
  void Set(std::string text) {
    const std::lock_guard lock(mutex_);
    text_ = std::move(text);
    is_set_ = true;
  }
  bool is_set() const { return is_set_.load(std::memory_order_relaxed); }
  std::string text() const {
    const std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  mutable std::mutex mutex_;
  std::string text_;
  std::atomic<bool> is_set_{false};
};

struct Rocks {
  ~Rocks();

  /// For pages: written to the WAL without fsync, so it survives the process but maybe not the
  /// machine. Fails instead of waiting for a compaction that has no room.
  rocksdb::Status Write(rocksdb::WriteBatch* batch);
  /// The same, but fails where RocksDB would stall.
  rocksdb::Status TryWrite(rocksdb::WriteBatch* batch);
  /// With fsync, for records that must never go back.
  rocksdb::Status WriteSynced(rocksdb::WriteBatch* batch);
  /// Exchanges the open databases. No other thread may use them.
  void Swap(Rocks* other);

  Room* room = nullptr;
  std::unique_ptr<rocksdb::Env> env;  // of `db`
  std::shared_ptr<WriteError> error;
  std::shared_ptr<DamagedFiles> damaged;
  bool is_for_reading = false;  // read-only
  bool is_writable = true;
  std::unique_ptr<rocksdb::DB> db;
  rocksdb::ColumnFamilyHandle* pages = nullptr;
  rocksdb::ColumnFamilyHandle* volumes = nullptr;
  rocksdb::ColumnFamilyHandle* usage = nullptr;

 private:
  // Not inline: native/tests/tsan.supp matches the names of callers.
  rocksdb::Status Commit(const rocksdb::WriteOptions& options, rocksdb::WriteBatch* batch);
};

/// Opens or creates a store. Sets `unwritable` if that fails because the disk is not writable.
Result<std::unique_ptr<Rocks>> OpenRocks(const RocksConfig& config, bool* unwritable);
/// Opens a store for reading, with its log in memory, because of `error`. It may also be open for
/// writing if nothing is written. Its is_writable is false.
Result<std::unique_ptr<Rocks>> OpenRocksForReading(const RocksConfig& config, std::string error);

inline rocksdb::Slice AsSlice(const RecordKey& key) { return {key.data(), key.size()}; }

}  // namespace farswap::store
