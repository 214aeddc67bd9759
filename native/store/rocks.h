// The RocksDB below a store: its options, its column families, opening and closing. Private to
// store/: no header that others include includes this one.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "store/record.h"

namespace farswap::store {

struct Rocks {
  ~Rocks();

  /// For pages: in the WAL, which survives the process; fsync is left to the kernel, replicas cover
  /// the loss of a machine.
  rocksdb::Status Write(rocksdb::WriteBatch* batch) { return Commit({}, batch); }
  /// The same, but fails at once where RocksDB would stall.
  rocksdb::Status TryWrite(rocksdb::WriteBatch* batch) {
    rocksdb::WriteOptions options;
    options.no_slowdown = true;
    return Commit(options, batch);
  }
  /// For what must never go back: on the disk when it returns.
  rocksdb::Status WriteSynced(rocksdb::WriteBatch* batch) {
    rocksdb::WriteOptions options;
    options.sync = true;
    return Commit(options, batch);
  }

  std::unique_ptr<rocksdb::DB> db;
  rocksdb::ColumnFamilyHandle* pages = nullptr;
  rocksdb::ColumnFamilyHandle* volumes = nullptr;
  rocksdb::ColumnFamilyHandle* usage = nullptr;

 private:
  // Not inline: native/tests/tsan.supp knows what goes on below it by the names of its callers.
  rocksdb::Status Commit(const rocksdb::WriteOptions& options, rocksdb::WriteBatch* batch);
};

/// Opens or creates the store at `path`, whose parent must exist.
Result<std::unique_ptr<Rocks>> OpenRocks(const std::string& path, std::uint64_t block_cache_bytes);

inline rocksdb::Slice AsSlice(const PageKey& key) { return {key.data(), key.size()}; }

}  // namespace farswap::store
