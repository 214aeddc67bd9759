#include "store/discard_batch.h"

#include <algorithm>
#include <array>

#include "store/lookup.h"

namespace farswap::store {

CallStatus DiscardBatch(Rocks* rocks, VolumeTable* volumes, Volume* volume, std::uint64_t epoch,
                        std::span<const DiscardItem> items, std::uint64_t* discarded,
                        rocksdb::Status* written) {
  // Sorted by key, the highest version first; drops the others of a key.
  std::array<DiscardItem, kBatchObjectsMax> sorted;
  auto end = std::copy(items.begin(), items.end(), sorted.begin());
  std::sort(sorted.begin(), end, [](const DiscardItem& a, const DiscardItem& b) {
    return a.key != b.key ? a.key < b.key : a.version > b.version;
  });
  end = std::unique(sorted.begin(), end,
                    [](const DiscardItem& a, const DiscardItem& b) { return a.key == b.key; });
  const std::span<const DiscardItem> unique(sorted.begin(), end);
  std::uint32_t mask = 0;
  Lookup lookup(rocks);
  for (const DiscardItem& item : unique) {
    mask |= std::uint32_t{1} << Volume::StripeOf(item.key);
    lookup.Add(volume->id, item.key);
  }
  const StripesLock stripes(volume, mask);
  if (const CallStatus usable = volume->Check(epoch); usable != CallStatus::kOk) return usable;
  lookup.Run(true);
  rocksdb::WriteBatch writes;
  Usage change;
  rocksdb::Status unreadable;
  for (std::size_t i = 0; i < unique.size(); ++i) {
    if (rocks->damaged->Note(lookup.status(i))) unreadable = lookup.status(i);
    const auto record =
        lookup.status(i).ok() ? DecodeRecord(unique[i].key, lookup.value(i)) : std::nullopt;
    if (record && record->version <= unique[i].version) {
      const RecordKey key = EncodeRecordKey(volume->id, unique[i].key);
      writes.Delete(rocks->pages, AsSlice(key));
      change.pages -= 1;
      change.bytes -= static_cast<std::int64_t>(RecordBytes(record->bytes.size()));
    }
  }
  if (change.pages != 0) {
    writes.Merge(rocks->usage, EncodeVolumeKey(volume->id), EncodeUsage(change));
    *written = rocks->Write(&writes);
    if (!written->ok()) return CallStatus::kOk;
    volumes->Apply(change, volume);
    *discarded += static_cast<std::uint64_t>(-change.pages);
  }
  *written = unreadable;
  return CallStatus::kOk;
}

}  // namespace farswap::store
