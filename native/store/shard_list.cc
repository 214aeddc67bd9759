#include "store/shard_list.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>

#include "store/record.h"
#include "tier/page.h"

namespace farswap::store {
namespace {

std::uint64_t FirstBundleKey(std::uint64_t shard) {
  return tier::BundleKeyOf(static_cast<tier::SlotIndex>(shard * tier::kShardSlots));
}

// The volume's objects in order of their keys.
class Walk {
 public:
  Walk(Rocks* rocks, std::uint64_t volume_id)
      : volume_id_(volume_id), end_(EncodeVolumeKey(volume_id + 1)), end_slice_(end_) {
    rocksdb::ReadOptions options;
    options.iterate_upper_bound = &end_slice_;
    options.fill_cache = false;
    // A record of a damaged block is listed as far as it is readable, and found damaged when read.
    options.verify_checksums = false;
    it_.reset(rocks->db->NewIterator(options, rocks->pages));
  }

  void Seek(std::uint64_t key) {
    const RecordKey record_key = EncodeRecordKey(volume_id_, key);
    it_->Seek(AsSlice(record_key));
  }
  void Next() { it_->Next(); }
  bool Valid() const { return it_->Valid(); }
  std::uint64_t key() const { return DecodeRecordKey(it_->key().ToStringView()); }
  std::string_view value() const { return it_->value().ToStringView(); }
  rocksdb::Status status() const { return it_->status(); }

 private:
  const std::uint64_t volume_id_;
  const std::string end_;
  const rocksdb::Slice end_slice_;
  std::unique_ptr<rocksdb::Iterator> it_;
};

}  // namespace

rocksdb::Status ListShard(Rocks* rocks, std::uint64_t volume_id, std::uint64_t shard,
                          std::uint64_t cursor, ShardList* list) {
  const std::array<std::pair<std::uint64_t, std::uint64_t>, 2> ranges = {{
      {shard * tier::kShardSlots, (shard + 1) * tier::kShardSlots},
      {FirstBundleKey(shard), FirstBundleKey(shard) + tier::kShardSlots / tier::kBundleSlots},
  }};
  Walk walk(rocks, volume_id);
  for (const auto& [begin, end] : ranges) {
    if (cursor >= end) continue;
    for (walk.Seek(std::max(begin, cursor)); walk.Valid() && walk.key() < end; walk.Next()) {
      if (list->entries.size() == kListedEntriesMax) {
        list->next_cursor = walk.key();
        return walk.status();
      }
      const auto record = DecodeRecord(walk.key(), walk.value());
      list->entries.push_back({.key = walk.key(),
                               .version = record ? record->version : 0,
                               .bytes = record ? record->bytes.size() : 0});
    }
    if (!walk.status().ok()) break;  // the next Seek() would reset it
  }
  return walk.status();
}

// Skips from each shard found to where the next one begins.
rocksdb::Status FindShards(Rocks* rocks, std::uint64_t volume_id,
                           std::vector<std::uint64_t>* shards) {
  Walk walk(rocks, volume_id);
  walk.Seek(0);
  while (walk.Valid()) {
    const auto key = static_cast<tier::ObjectKey>(walk.key());
    const std::uint64_t shard = tier::FirstSlotOf(key) / tier::kShardSlots;
    shards->push_back(shard);
    const bool bundle = tier::IsBundleKey(key);
    walk.Seek(bundle ? FirstBundleKey(shard + 1) : (shard + 1) * tier::kShardSlots);
  }
  std::sort(shards->begin(), shards->end());
  shards->erase(std::unique(shards->begin(), shards->end()), shards->end());
  return walk.status();
}

}  // namespace farswap::store
