// RocksDB's own log, the file LOG in the store. Private to store/.
#pragma once

#include <rocksdb/env.h>

#include <memory>
#include <string>

namespace farswap::store {

/// Warnings and errors, in `path`/LOG, rotated to LOG.old. Drops lines that cannot be written:
/// RocksDB's logger aborts the process at the second one.
std::shared_ptr<rocksdb::Logger> MakeInfoLog(const std::string& path);

}  // namespace farswap::store
