// The RocksDB below a store: its options, its column families, opening and closing. Private to
// store/: no header that others include includes this one.
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
#include "store/record.h"
#include "store/room.h"

namespace farswap::store {

/// The first level below level 0 holds as many memtables of pages.
inline constexpr std::uint64_t kLevelBaseMemtables = 8;

struct RocksConfig {
  std::string path;  // its parent must exist
  std::uint64_t block_cache_bytes = 0;
  Room* room = nullptr;  // outlives what is opened
  std::shared_ptr<rocksdb::FileSystem> files;
};

/// Why RocksDB has stopped writing, if it has.
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

  /// For pages: in the WAL, which survives the process; fsync is left to the kernel, replicas cover
  /// the loss of a machine. Fails instead of waiting for a compaction that has no room.
  rocksdb::Status Write(rocksdb::WriteBatch* batch);
  /// The same, but fails at once where RocksDB would stall.
  rocksdb::Status TryWrite(rocksdb::WriteBatch* batch);
  /// For what must never go back: on the disk when it returns.
  rocksdb::Status WriteSynced(rocksdb::WriteBatch* batch);
  /// Exchanges what is open. Nothing else may use either.
  void Swap(Rocks* other);

  Room* room = nullptr;
  std::unique_ptr<rocksdb::Env> env;  // of `db`
  std::shared_ptr<WriteError> error;
  bool is_for_reading = false;  // opened so
  bool is_writable = true;
  std::unique_ptr<rocksdb::DB> db;
  rocksdb::ColumnFamilyHandle* pages = nullptr;
  rocksdb::ColumnFamilyHandle* volumes = nullptr;
  rocksdb::ColumnFamilyHandle* usage = nullptr;

 private:
  // Not inline: native/tests/tsan.supp knows what goes on below it by the names of its callers.
  rocksdb::Status Commit(const rocksdb::WriteOptions& options, rocksdb::WriteBatch* batch);
};

/// Opens or creates a store. `unwritable` is set if that fails for a disk that cannot be written
/// to.
Result<std::unique_ptr<Rocks>> OpenRocks(const RocksConfig& config, bool* unwritable);
/// Opens a store for reading, with its log in memory, because of `error`. It may be open for
/// writing as well, as long as nothing is written. Its is_writable is false.
Result<std::unique_ptr<Rocks>> OpenRocksForReading(const RocksConfig& config, std::string error);

inline rocksdb::Slice AsSlice(const RecordKey& key) { return {key.data(), key.size()}; }

}  // namespace farswap::store
