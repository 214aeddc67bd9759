// Table files in which RocksDB found a damaged block, until the scrubber has repaired them.
#pragma once

#include <rocksdb/status.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace farswap::store {

/// A block of a table file whose checksum is wrong.
struct DamagedBlock {
  std::string path;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;      // without its trailer
  std::uint32_t checksum = 0;  // of the block as it was read
};

/// The block that `status`, RocksDB's, reports as damaged; nullopt: it is another status.
std::optional<DamagedBlock> DamagedBlockOf(const rocksdb::Status& status);

struct BlockRecord {
  std::string key;
  std::uint64_t value_bytes = 0;
};
/// The records of a damaged block as far as they are readable. RocksDB's own parser would trust the
/// block, and abort.
std::vector<BlockRecord> RecordsOf(const DamagedBlock& block);

/// Replaces a damaged block by one whose only entry is a deletion of `filler`: a key that no record
/// has, between those of the blocks before and after. An error if the file has something else
/// there, or cannot be written.
rocksdb::Status EmptyBlock(const DamagedBlock& block, std::string_view filler);

/// Any thread; its lock comes before that of the scrubber.
class DamagedFiles {
 public:
  /// Has the file repaired that `status` names. False: it names none, or none that can be repaired.
  bool Note(const rocksdb::Status& status) {
    const auto block = DamagedBlockOf(status);
    const std::lock_guard lock(mutex_);
    if (!block || beyond_repair_.contains(block->path)) return false;
    noted_.insert(block->path);
    if (wake_) wake_();
    return true;
  }

  /// `wake` is called when a file was noted.
  void Watch(std::function<void()> wake) {
    const std::lock_guard lock(mutex_);
    wake_ = std::move(wake);
  }
  /// A file to repair; call End() when that is done.
  std::optional<std::string> Next() const {
    const std::lock_guard lock(mutex_);
    return noted_.empty() ? std::nullopt : std::optional(*noted_.begin());
  }
  void End(const std::string& path, bool repaired) {
    const std::lock_guard lock(mutex_);
    noted_.erase(path);
    if (!repaired) beyond_repair_.insert(path);
  }

 private:
  mutable std::mutex mutex_;  // guards all below
  std::set<std::string> noted_;
  std::set<std::string> beyond_repair_;
  std::function<void()> wake_;
};

}  // namespace farswap::store
