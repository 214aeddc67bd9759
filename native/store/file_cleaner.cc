#include "store/file_cleaner.h"

#include <rocksdb/sst_file_reader.h>
#include <rocksdb/table.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "store/lookup.h"
#include "tier/page.h"

namespace farswap::store {
namespace {

using rocksdb::Status;

// A record's key as a number: volume id, then the object's key.
__extension__ using Position = unsigned __int128;

Position At(std::uint64_t volume_id, std::uint64_t key) { return Position{volume_id} << 64 | key; }
std::uint64_t VolumeAt(Position position) { return static_cast<std::uint64_t>(position >> 64); }
std::uint64_t KeyAt(Position position) { return static_cast<std::uint64_t>(position); }

// A file's first or last key may be a filler, which is longer (Table::Filler()), or the end of a
// deleted range, which is shorter.
Position PositionOf(const rocksdb::Slice& key) {
  std::string record_key = key.ToString();
  record_key.resize(kRecordKeyBytes);
  return At(*DecodeVolumeKey(record_key.substr(0, 8)), DecodeRecordKey(record_key));
}

}  // namespace

// A table file, read from the disk alone, and a damaged block of it.
class FileCleaner::Table {
 public:
  explicit Table(rocksdb::Env* env) : reader_(OptionsFor(env)) {}

  // `smallest` and `largest`: keys in the file.
  Status Open(const std::string& path, Position smallest, Position largest) {
    smallest_ = smallest;
    largest_ = largest;
    return reader_.Open(path);
  }

  // Reads on to the next damaged block; false: there is none, or status() is not OK.
  bool FindDamage(const std::atomic<bool>& stopping) {
    Seek(first_);
    for (; it_->Valid(); it_->Next()) {
      if (stopping) return Fail(Status::Incomplete("stopped"));
      first_ = PositionOf(it_->key()) + 1;
    }
    if (it_->status().ok()) return false;
    const auto block = DamagedBlockOf(it_->status());
    if (!block) return Fail(it_->status());
    block_ = *block;
    if (!MeetsBlock(first_)) return Fail(Status::TryAgain("a damaged block is readable now"));
    Position low = first_ + 1;
    Position high = std::max(largest_ + 1, low);
    while (low < high) {
      const Position middle = low + (high - low) / 2;
      if (MeetsBlock(middle)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    last_ = low - 1;
    return true;
  }
  // Whether a search for a key ends at the damaged block.
  bool MeetsBlock(Position position) {
    Seek(position);
    const auto block = DamagedBlockOf(it_->status());
    return block && block->offset == block_.offset;
  }
  void GoOn() { first_ = last_ + 1; }

  const Status& status() const { return status_; }
  const DamagedBlock& block() const { return block_; }
  // The block's records are among these keys.
  Position first() const { return first_; }
  Position last() const { return last_; }

  // A key that sorts among the block's own and those of the file, and that no record has: longer
  // than theirs. It ends with the file's number, since RocksDB aborts on two entries of one key and
  // sequence.
  std::string Filler() const {
    const bool before = last_ == largest_ && smallest_ < largest_;
    const Position next_to = last_ - (before ? 1 : 0);
    const RecordKey key = EncodeRecordKey(VolumeAt(next_to), KeyAt(next_to));
    return std::string(key.begin(), key.end()) + (before ? '\1' : '\0') +
           std::filesystem::path(block_.path).stem().string();
  }

 private:
  static rocksdb::Options OptionsFor(rocksdb::Env* env) {
    rocksdb::BlockBasedTableOptions table;
    table.no_block_cache = true;
    table.max_auto_readahead_size = 0;  // it would return a block from before it was emptied
    rocksdb::Options options;
    options.env = env;
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    return options;
  }
  // An iterator keeps the block that it has read, or its failure.
  void Seek(Position position) {
    it_.reset(reader_.NewIterator({}));
    const RecordKey key = EncodeRecordKey(VolumeAt(position), KeyAt(position));
    it_->Seek(AsSlice(key));
  }
  bool Fail(Status status) {
    status_ = std::move(status);
    return false;
  }

  rocksdb::SstFileReader reader_;
  std::unique_ptr<rocksdb::Iterator> it_;
  Status status_;
  DamagedBlock block_;
  Position first_ = 0;
  Position last_ = 0;
  Position smallest_ = 0;
  Position largest_ = 0;
};

struct FileCleaner::Part {
  struct Record {
    std::uint64_t key;
    std::uint64_t bytes;
  };

  std::shared_ptr<Volume> volume;
  std::vector<Record> records;
  std::uint32_t stripes = 0;
};

Status FileCleaner::Clean(const std::string& path, const std::atomic<bool>& stopping) {
  std::vector<rocksdb::LiveFileMetaData> files;
  rocksdb::DB* const db = rocks_->db.get();
  db->GetLiveFilesMetaData(&files);
  const auto file = std::ranges::find_if(files, [&](const rocksdb::LiveFileMetaData& live) {
    return live.column_family_name == rocks_->pages->GetName() && live.db_path + live.name == path;
  });
  if (file == files.end()) return Status::NotFound(path);
  Table table(rocks_->env.get());
  Status status = table.Open(path, PositionOf(file->smallestkey), PositionOf(file->largestkey));
  while (status.ok() && table.FindDamage(stopping)) {
    status = Report(table);
    if (status.ok()) status = Empty(table);
    if (status.ok() && table.MeetsBlock(table.first())) {
      status = Status::Corruption("a block is damaged after it was emptied");
    }
    table.GoOn();
  }
  return status.ok() ? table.status() : status;
}

// All shards that the block may have records of.
Status FileCleaner::Report(const Table& table) {
  for (const std::shared_ptr<Volume>& volume : volumes_->List()) {
    if (volume->garbage || volume->id < VolumeAt(table.first()) ||
        volume->id > VolumeAt(table.last())) {
      continue;
    }
    const std::uint64_t slots = volume->slots;
    const std::uint64_t first = volume->id == VolumeAt(table.first()) ? KeyAt(table.first()) : 0;
    const std::uint64_t last =
        volume->id == VolumeAt(table.last()) ? KeyAt(table.last()) : UINT64_MAX;
    const auto report = [&](std::uint64_t begin, std::uint64_t end, std::uint64_t slots_of_key) {
      const std::uint64_t low = std::max(first, begin);
      const std::uint64_t high = std::min(last, end - 1);
      if (low > high) return Status::OK();
      return damage_->Add(volume->id, (low - begin) * slots_of_key / tier::kShardSlots,
                          (high - begin) * slots_of_key / tier::kShardSlots);
    };
    Status status = report(0, slots, 1);
    if (status.ok()) {
      const std::uint64_t bundles = tier::BundleKeyOf(0);
      status = report(bundles, bundles + (slots + tier::kBundleSlots - 1) / tier::kBundleSlots,
                      tier::kBundleSlots);
    }
    if (!status.ok()) return status;
  }
  return Status::OK();
}

// By volume, ascending.
std::vector<FileCleaner::Part> FileCleaner::PartsOf(const Table& table) const {
  std::vector<Part> parts;
  Position next = table.first();
  for (const BlockRecord& record : RecordsOf(table.block())) {
    const Position position = PositionOf(record.key);
    if (position < next || position > table.last()) break;
    next = position + 1;
    if (parts.empty() || parts.back().volume->id != VolumeAt(position)) {
      auto volume = volumes_->Find(VolumeAt(position));
      if (!volume) continue;
      parts.push_back({.volume = std::move(volume), .records = {}});
    }
    if (!parts.back().volume->Holds(KeyAt(position))) continue;
    parts.back().records.push_back({KeyAt(position), kRecordKeyBytes + record.value_bytes});
    parts.back().stripes |= std::uint32_t{1} << Volume::StripeOf(KeyAt(position));
  }
  return parts;
}

Status FileCleaner::Empty(const Table& table) {
  std::vector<Part> parts = PartsOf(table);
  std::vector<std::unique_ptr<StripesLock>> stripes;
  for (Part& part : parts) {
    stripes.push_back(std::make_unique<StripesLock>(part.volume.get(), part.stripes));
    // Others are covered by newer ones.
    std::erase_if(part.records, [&](const Part::Record& record) {
      Lookup lookup(rocks_);
      lookup.Add(part.volume->id, record.key);
      lookup.Run(true);
      return !lookup.status(0).IsCorruption();
    });
  }
  Status status = EmptyBlock(table.block(), table.Filler());
  if (!status.ok()) return status;
  counters_->Add(Counter::scrub_damaged_blocks);
  Count(&parts);
  return status;
}

void FileCleaner::Count(std::vector<Part>* parts) {
  for (Part& part : *parts) {
    if (part.volume->garbage) continue;
    Usage change;
    for (const Part::Record& record : part.records) {
      counters_->Add(Counter::scrub_damaged_records);
      Lookup lookup(rocks_);
      lookup.Add(part.volume->id, record.key);
      lookup.Run(true);
      const bool older = lookup.status(0).ok();
      change.pages -= older ? 0 : 1;
      change.bytes -= static_cast<std::int64_t>(record.bytes);
      if (older) {
        change.bytes += static_cast<std::int64_t>(kRecordKeyBytes + lookup.value(0).size());
      }
    }
    // The damage may have changed lengths.
    change.pages = std::max(change.pages, -part.volume->pages.load());
    change.bytes = std::max(change.bytes, -static_cast<std::int64_t>(part.volume->bytes.value()));
    if (change.pages == 0 && change.bytes == 0) continue;
    rocksdb::WriteBatch batch;
    batch.Merge(rocks_->usage, EncodeVolumeKey(part.volume->id), EncodeUsage(change));
    if (rocks_->Write(&batch).ok()) volumes_->Apply(change, part.volume.get());
  }
}

}  // namespace farswap::store
