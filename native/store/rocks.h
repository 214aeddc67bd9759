// The RocksDB below a store: its options, its column families, opening and closing. Private to
// store/: no header that others include includes this one.
#pragma once

#include <rocksdb/db.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "store/record.h"

namespace farswap::store {

struct Rocks {
  ~Rocks();

  std::unique_ptr<rocksdb::DB> db;
  rocksdb::ColumnFamilyHandle* pages = nullptr;
  rocksdb::ColumnFamilyHandle* volumes = nullptr;
  rocksdb::ColumnFamilyHandle* usage = nullptr;
};

/// For page writes: in the WAL, which survives the process; fsync is left to the kernel, replicas
/// cover the loss of a machine.
rocksdb::WriteOptions UnsyncedWrite();
/// For what must never go back: on the disk when Write() returns.
rocksdb::WriteOptions SyncedWrite();

/// Opens or creates the store at `path`, whose parent must exist.
Result<std::unique_ptr<Rocks>> OpenRocks(const std::string& path, std::uint64_t block_cache_bytes);

inline rocksdb::Slice AsSlice(const PageKey& key) { return {key.data(), key.size()}; }

}  // namespace farswap::store
