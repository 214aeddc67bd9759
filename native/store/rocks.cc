#include "store/rocks.h"

#include <rocksdb/cache.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/merge_operator.h>
#include <rocksdb/sst_file_manager.h>
#include <rocksdb/table.h>

#include <algorithm>
#include <string_view>
#include <thread>
#include <vector>

#include "store/steady_rate_limiter.h"

namespace farswap::store {
namespace {

constexpr std::uint64_t kWriteBufferBytes = std::uint64_t{64} << 20;
constexpr std::uint64_t kMetadataBufferBytes = std::uint64_t{1} << 20;
// A start replays at most this much.
constexpr std::uint64_t kWalBytesMax = std::uint64_t{256} << 20;
// Flush and compaction together, below fetches.
constexpr std::int64_t kBackgroundBytesPerSecond = std::int64_t{800} << 20;
constexpr std::uint64_t kInfoLogBytesMax = std::uint64_t{4} << 20;

// Adds usages. An operand that does not parse is a damaged store: the read of it then fails.
class UsageAdder final : public rocksdb::AssociativeMergeOperator {
 public:
  const char* Name() const override { return "farswap.usage"; }
  bool Merge(const rocksdb::Slice& /*key*/, const rocksdb::Slice* existing,
             const rocksdb::Slice& operand, std::string* sum,
             rocksdb::Logger* /*logger*/) const override {
    const auto left = existing ? DecodeUsage(existing->ToStringView()) : Usage{};
    const auto right = DecodeUsage(operand.ToStringView());
    if (!left || !right) {
      return false;
    }
    *sum = EncodeUsage({left->pages + right->pages, left->bytes + right->bytes});
    return true;
  }
};

rocksdb::DBOptions DatabaseOptions() {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.max_background_jobs =
      std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 2, 4);
  options.max_total_wal_size = kWalBytesMax;
  options.bytes_per_sync = std::uint64_t{1} << 20;
  options.rate_limiter = std::make_shared<SteadyRateLimiter>(kBackgroundBytesPerSecond);
  // Lets the store resume by itself after the disk was full.
  options.sst_file_manager.reset(rocksdb::NewSstFileManager(rocksdb::Env::Default()));
  options.info_log_level = rocksdb::WARN_LEVEL;
  options.keep_log_file_num = 4;
  options.max_log_file_size = kInfoLogBytesMax;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  return options;
}

rocksdb::ColumnFamilyOptions PageOptions(std::uint64_t block_cache_bytes) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(block_cache_bytes);
  // The version check of a store is a lookup that mostly misses.
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.block_size = std::size_t{8} << 10;
  table.data_block_index_type = rocksdb::BlockBasedTableOptions::kDataBlockBinaryAndHash;
  table.format_version = 5;
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.compression = rocksdb::kNoCompression;  // pages come compressed
  options.bottommost_compression = rocksdb::kNoCompression;
  options.write_buffer_size = kWriteBufferBytes;
  options.max_write_buffer_number = 4;
  options.memtable_whole_key_filtering = true;
  options.memtable_prefix_bloom_size_ratio = 0.02;
  options.target_file_size_base = kWriteBufferBytes;
  options.max_bytes_for_level_base = 8 * kWriteBufferBytes;
  options.level_compaction_dynamic_level_bytes = true;
  // Or files are rewritten that are older than 30 days by the wall clock.
  options.ttl = 0;
  options.periodic_compaction_seconds = 0;
  return options;
}

rocksdb::ColumnFamilyOptions MetadataOptions() {
  rocksdb::ColumnFamilyOptions options;
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = kMetadataBufferBytes;
  options.ttl = 0;
  options.periodic_compaction_seconds = 0;
  return options;
}

Error OpenError(const std::string& path, const rocksdb::Status& status) {
  const std::string text = status.ToString();
  if (status.IsIOError() && (text.find("lock hold by current process") != std::string::npos ||
                             text.find("While lock file") != std::string::npos)) {
    return Error{"store " + path + ": another farswap-server uses it"};
  }
  return Error{"store " + path + ": " + text};
}

}  // namespace

Rocks::~Rocks() {
  if (!db) {
    return;
  }
  for (rocksdb::ColumnFamilyHandle* family : {pages, volumes, usage}) {
    db->DestroyColumnFamilyHandle(family);
  }
  db->Close();
}

rocksdb::Status Rocks::Commit(const rocksdb::WriteOptions& options, rocksdb::WriteBatch* batch) {
  return db->Write(options, batch);
}

Result<std::unique_ptr<Rocks>> OpenRocks(const std::string& path, std::uint64_t block_cache_bytes) {
  rocksdb::ColumnFamilyOptions usage = MetadataOptions();
  usage.merge_operator = std::make_shared<UsageAdder>();
  const std::vector<rocksdb::ColumnFamilyDescriptor> families = {
      {rocksdb::kDefaultColumnFamilyName, PageOptions(block_cache_bytes)},
      {"volumes", MetadataOptions()},
      {"usage", usage}};
  std::vector<rocksdb::ColumnFamilyHandle*> opened;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(DatabaseOptions(), path, families, &opened, &db);
  if (!status.ok()) {
    return OpenError(path, status);
  }
  auto rocks = std::make_unique<Rocks>();
  rocks->db.reset(db);
  rocks->pages = opened[0];
  rocks->volumes = opened[1];
  rocks->usage = opened[2];
  return rocks;
}

}  // namespace farswap::store
