#include "store/rocks.h"

#include <rocksdb/cache.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/merge_operator.h>
#include <rocksdb/rate_limiter.h>
#include <rocksdb/table.h>

#include <algorithm>
#include <limits>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "store/info_log.h"
#include "store/spared_files.h"
#include "store/steady_rate_limiter.h"

namespace farswap::store {
namespace {

constexpr std::uint64_t kMetadataBufferBytes = std::uint64_t{1} << 20;
// The ballast is computed from both of these. A start replays at most as much log.
constexpr int kMemtables = 4;
constexpr std::uint64_t kWalMemtables = 4;
// Rate of flushes and compactions together, with fetches first.
constexpr std::int64_t kBackgroundBytesPerSecond = std::int64_t{800} << 20;

// Adds usages. Reads fail if an operand is damaged.
class UsageAdder final : public rocksdb::AssociativeMergeOperator {
 public:
  const char* Name() const override { return "farswap.usage"; }
  bool Merge(const rocksdb::Slice& /*key*/, const rocksdb::Slice* existing,
             const rocksdb::Slice& operand, std::string* sum,
             rocksdb::Logger* /*logger*/) const override {
    const auto left = existing ? DecodeUsage(existing->ToStringView()) : Usage{};
    const auto right = DecodeUsage(operand.ToStringView());
    if (!left || !right) return false;
    *sum = EncodeUsage({left->pages + right->pages, left->bytes + right->bytes});
    return true;
  }
};

// Records errors that make RocksDB stop writing.
class ErrorWatch final : public rocksdb::EventListener {
 public:
  ErrorWatch(std::shared_ptr<WriteError> error, std::shared_ptr<DamagedFiles> damaged)
      : error_(std::move(error)), damaged_(std::move(damaged)) {}

  void OnBackgroundError(rocksdb::BackgroundErrorReason reason, rocksdb::Status* status) override {
    // RocksDB repeats a failed compaction, by then without the damaged block.
    if (reason == rocksdb::BackgroundErrorReason::kCompaction && damaged_->Note(*status)) {
      *status = rocksdb::Status::OK();
      return;
    }
    if (reason != rocksdb::BackgroundErrorReason::kCompaction || !status->IsIOError()) {
      error_->Set(status->ToString());
    }
  }

 private:
  const std::shared_ptr<WriteError> error_;
  const std::shared_ptr<DamagedFiles> damaged_;
};

rocksdb::DBOptions DatabaseOptions(const RocksConfig& config, const Rocks& rocks) {
  const std::uint64_t memtable_bytes = config.room->memtable_bytes();
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.env = rocks.env.get();
  options.listeners = {std::make_shared<ErrorWatch>(rocks.error, rocks.damaged),
                       MakeCompactionWatch(config.files, config.room)};
  options.max_background_jobs =
      std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 2, 4);
  options.max_total_wal_size = kWalMemtables * memtable_bytes;
  options.manifest_preallocation_size = memtable_bytes / 16;
  options.bytes_per_sync = std::uint64_t{1} << 20;
  options.rate_limiter = std::make_shared<SteadyRateLimiter>(kBackgroundBytesPerSecond);
  // After an error the store is opened again. RocksDB's Resume() would keep a broken log in use if
  // there is nothing to flush, and the next write would fail an assertion.
  options.max_bgerror_resume_count = 0;
  options.avoid_flush_during_shutdown = true;
  options.info_log = MakeInfoLog(config.path);
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  return options;
}

// For every family. Pending compactions slow writes down, but never stop them: on a full disk a
// compaction may have no room, and the first write of a start would wait for it without end.
void NeverStopWrites(rocksdb::ColumnFamilyOptions* options) {
  options->level0_stop_writes_trigger = std::numeric_limits<int>::max();
  options->hard_pending_compaction_bytes_limit = 0;
}

rocksdb::ColumnFamilyOptions PageOptions(const RocksConfig& config) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(config.block_cache_bytes);
  // The version check of a store is a lookup that mostly fails.
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.block_size = std::size_t{8} << 10;
  table.data_block_index_type = rocksdb::BlockBasedTableOptions::kDataBlockBinaryAndHash;
  // EmptyBlock() writes blocks of this kind.
  table.format_version = 5;
  table.checksum = rocksdb::kXXH3;
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.compression = rocksdb::kNoCompression;  // pages are already compressed
  options.bottommost_compression = rocksdb::kNoCompression;
  const std::uint64_t memtable_bytes = config.room->memtable_bytes();
  options.write_buffer_size = memtable_bytes;
  options.max_write_buffer_number = kMemtables;
  options.memtable_whole_key_filtering = true;
  options.memtable_prefix_bloom_size_ratio = 0.02;
  options.target_file_size_base = memtable_bytes;
  options.max_bytes_for_level_base = kLevelBaseMemtables * memtable_bytes;
  options.max_compaction_bytes = kLevelBaseMemtables * memtable_bytes;
  options.level_compaction_dynamic_level_bytes = true;
  // Else files older than 30 days, by the wall clock, are rewritten.
  options.ttl = 0;
  options.periodic_compaction_seconds = 0;
  NeverStopWrites(&options);
  return options;
}

rocksdb::ColumnFamilyOptions MetadataOptions() {
  rocksdb::ColumnFamilyOptions options;
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = kMetadataBufferBytes;
  options.ttl = 0;
  options.periodic_compaction_seconds = 0;
  NeverStopWrites(&options);
  return options;
}

using Families = std::vector<rocksdb::ColumnFamilyDescriptor>;

Families AllFamilies(const RocksConfig& config) {
  rocksdb::ColumnFamilyOptions usage = MetadataOptions();
  usage.merge_operator = std::make_shared<UsageAdder>();
  return {{rocksdb::kDefaultColumnFamilyName, PageOptions(config)},
          {"volumes", MetadataOptions()},
          {"usage", usage}};
}

bool IsLocked(const rocksdb::Status& status) {
  const std::string text = status.ToString();
  return status.IsIOError() && (text.find("lock hold by current process") != std::string::npos ||
                                text.find("While lock file") != std::string::npos);
}

using Handles = std::vector<rocksdb::ColumnFamilyHandle*>;
using Opener = rocksdb::Status(const rocksdb::DBOptions&, const std::string&, const Families&,
                               Handles*, rocksdb::DB**);

rocksdb::Status OpenForReading(const rocksdb::DBOptions& options, const std::string& path,
                               const Families& families, Handles* handles, rocksdb::DB** db) {
  return rocksdb::DB::OpenForReadOnly(options, path, families, handles, db);
}

Result<std::unique_ptr<Rocks>> OpenBy(const RocksConfig& config, Opener* opener,
                                      rocksdb::Status* status) {
  auto rocks = std::make_unique<Rocks>();
  rocks->room = config.room;
  rocks->env = rocksdb::NewCompositeEnv(MakeSparedFiles(config.files, config.room));
  rocks->error = std::make_shared<WriteError>();
  rocks->damaged = std::make_shared<DamagedFiles>();
  Handles opened;
  rocksdb::DB* db = nullptr;
  *status = opener(DatabaseOptions(config, *rocks), config.path, AllFamilies(config), &opened, &db);
  if (!status->ok()) {
    return Error{"store " + config.path + ": " + status->ToString()};
  }
  rocks->db.reset(db);
  rocks->pages = opened[0];
  rocks->volumes = opened[1];
  rocks->usage = opened[2];
  return rocks;
}

}  // namespace

Rocks::~Rocks() {
  if (!db) return;
  for (rocksdb::ColumnFamilyHandle* family : {pages, volumes, usage}) {
    db->DestroyColumnFamilyHandle(family);
  }
  db->Close();
  db.reset();  // before env
}

rocksdb::Status Rocks::Write(rocksdb::WriteBatch* batch) {
  rocksdb::WriteOptions options;
  options.no_slowdown = room->compaction_starves();
  return Commit(options, batch);
}

rocksdb::Status Rocks::TryWrite(rocksdb::WriteBatch* batch) {
  rocksdb::WriteOptions options;
  options.no_slowdown = true;
  return Commit(options, batch);
}

rocksdb::Status Rocks::WriteSynced(rocksdb::WriteBatch* batch) {
  rocksdb::WriteOptions options;
  options.sync = true;
  return Commit(options, batch);
}

rocksdb::Status Rocks::Commit(const rocksdb::WriteOptions& options, rocksdb::WriteBatch* batch) {
  if (!is_writable) return rocksdb::Status::IOError("the store is read-only", error->text());
  return db->Write(options, batch);
}

void Rocks::Swap(Rocks* other) {
  std::swap(env, other->env);
  std::swap(error, other->error);
  std::swap(damaged, other->damaged);
  std::swap(is_for_reading, other->is_for_reading);
  std::swap(is_writable, other->is_writable);
  std::swap(db, other->db);
  std::swap(pages, other->pages);
  std::swap(volumes, other->volumes);
  std::swap(usage, other->usage);
}

Result<std::unique_ptr<Rocks>> OpenRocks(const RocksConfig& config, bool* unwritable) {
  rocksdb::Status status;
  auto rocks = OpenBy(config, &rocksdb::DB::Open, &status);
  *unwritable = status.IsIOError() && !IsLocked(status);
  if (IsLocked(status)) {
    return Error{"store " + config.path + ": another farswap-server uses it"};
  }
  return rocks;
}

Result<std::unique_ptr<Rocks>> OpenRocksForReading(const RocksConfig& config, std::string error) {
  rocksdb::Status status;
  auto rocks = OpenBy(config, &OpenForReading, &status);
  if (rocks.ok()) {
    rocks.value()->is_for_reading = true;
    rocks.value()->is_writable = false;
    rocks.value()->error->Set(std::move(error));
  }
  return rocks;
}

}  // namespace farswap::store
