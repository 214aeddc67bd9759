#include "store/page_store.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <system_error>

#include "store/garbage_collector.h"
#include "store/lookup.h"
#include "store/rocks.h"
#include "store/store_batch.h"
#include "store/volume_table.h"

namespace farswap::store {
namespace {

bool IsName(const std::string& name) { return !name.empty() && name.size() <= kNameBytesMax; }

std::uint64_t FileBytes(const std::string& path) {
  std::uint64_t total = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code gone;  // files come and go under a running store
    const std::uintmax_t bytes = it->file_size(gone);
    total += gone ? 0 : bytes;
  }
  return total;
}

std::uint64_t Property(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family,
                       const std::string& name) {
  std::uint64_t value = 0;
  db->GetIntProperty(family, name, &value);
  return value;
}

}  // namespace

struct PageStore::Impl {
  StreamStatus DiscardSome(Volume* volume, std::uint64_t epoch, std::span<const DiscardItem> items,
                           std::uint64_t* discarded, rocksdb::Status* status);
  void CountStored(std::span<const PageRecord> pages, std::span<const PageStatus> results);
  void CountRefused(StreamStatus status);

  PageStoreConfig config;
  Counters counters;
  std::unique_ptr<Rocks> rocks;  // outlives what follows
  std::unique_ptr<VolumeTable> volumes;
  std::optional<GarbageCollector> garbage_collector;
};

PageStore::PageStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

PageStore::~PageStore() {
  impl_->garbage_collector.reset();
  rocksdb::DB* db = impl_->rocks->db.get();
  db->Flush({}, {impl_->rocks->pages, impl_->rocks->volumes, impl_->rocks->usage});
}

Result<std::unique_ptr<PageStore>> PageStore::Open(const PageStoreConfig& config) {
  auto rocks = OpenRocks(config.path, config.block_cache_bytes);
  if (!rocks.ok()) {
    return rocks.error();
  }
  auto impl = std::make_unique<Impl>();
  impl->config = config;
  impl->rocks = std::move(rocks.value());
  impl->volumes = std::make_unique<VolumeTable>(impl->rocks.get());
  if (Outcome loaded = impl->volumes->Load(); !loaded.ok()) {
    return Error{"store " + config.path + ": " + loaded.error().message};
  }
  if (config.collect_garbage) {
    impl->garbage_collector.emplace(impl->rocks.get(), impl->volumes.get(), &impl->counters);
  }
  return std::unique_ptr<PageStore>(new PageStore(std::move(impl)));
}

OpenedVolume PageStore::OpenVolume(const std::string& host_id, const std::string& device,
                                   std::string_view incarnation, std::uint64_t slots) {
  OpenedVolume opened;
  opened.status = OpenStatus::kInvalid;
  if (!IsName(host_id) || !IsName(device)) {
    opened.message = "host_id and device take 1 to 128 bytes";
  } else if (incarnation.size() != kIncarnationBytes) {
    opened.message = "incarnation takes 16 bytes";
  } else if (slots == 0 || slots > kVolumeSlotsMax) {
    opened.message = "slots is 1 to " + std::to_string(kVolumeSlotsMax);
  } else {
    Incarnation fixed;
    std::copy(incarnation.begin(), incarnation.end(), fixed.begin());
    opened = impl_->volumes->Open(host_id, device, fixed, slots);
  }
  if (opened.status != OpenStatus::kOk) {
    impl_->counters.Add(Counter::opens_refused);
    return opened;
  }
  impl_->counters.Add(Counter::opens);
  if (impl_->garbage_collector) {
    impl_->garbage_collector->Wake();
  }
  return opened;
}

Result<StreamStatus> PageStore::CloseVolume(std::uint64_t volume_id, std::uint64_t epoch) {
  auto closed = impl_->volumes->Close(volume_id, epoch);
  if (closed.ok() && closed.value() == StreamStatus::kOk) {
    impl_->counters.Add(Counter::closes);
    if (impl_->garbage_collector) {
      impl_->garbage_collector->Wake();
    }
  } else if (closed.ok()) {
    impl_->CountRefused(closed.value());
  }
  return closed;
}

StreamStatus PageStore::Store(std::uint64_t volume_id, std::uint64_t epoch,
                              std::span<const PageRecord> pages, std::span<PageStatus> results) {
  StreamStatus status = StreamStatus::kInvalid;
  if (pages.size() <= kBatchPagesMax) {
    const std::shared_ptr<Volume> volume = impl_->volumes->Find(volume_id);
    status = volume ? volume->Check(epoch) : StreamStatus::kUnknownVolume;
    if (status == StreamStatus::kOk) {
      StoreBatch batch(impl_->rocks.get(), impl_->volumes.get(), volume.get(), pages, results);
      batch.Validate();
      const StripesLock stripes(volume.get(), batch.stripes());
      status = volume->Check(epoch);
      if (status == StreamStatus::kOk) {
        batch.Compare(impl_->config.capacity_bytes);
        batch.Write();
      }
    }
  }
  if (status == StreamStatus::kOk) {
    impl_->CountStored(pages, results);
  } else {
    impl_->CountRefused(status);
  }
  return status;
}

void PageStore::Impl::CountStored(std::span<const PageRecord> pages,
                                  std::span<const PageStatus> results) {
  std::array<std::uint64_t, 8> by_status{};
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    ++by_status[static_cast<std::size_t>(results[i])];
    bytes += results[i] == PageStatus::kOk ? pages[i].bytes.size() : 0;
  }
  const auto of = [&](PageStatus status) { return by_status[static_cast<std::size_t>(status)]; };
  counters.Add(Counter::stores, of(PageStatus::kOk));
  counters.Add(Counter::stores_superseded, of(PageStatus::kSuperseded));
  counters.Add(Counter::stores_full, of(PageStatus::kFull));
  counters.Add(Counter::stores_invalid, of(PageStatus::kInvalid));
  counters.Add(Counter::stores_io_error, of(PageStatus::kIoError));
  counters.Add(Counter::store_bytes, bytes);
}

void PageStore::Impl::CountRefused(StreamStatus status) {
  switch (status) {
    case StreamStatus::kFenced:
      counters.Add(Counter::fenced);
      break;
    case StreamStatus::kUnknownVolume:
      counters.Add(Counter::unknown_volume);
      break;
    case StreamStatus::kInvalid:
      counters.Add(Counter::invalid_batches);
      break;
    case StreamStatus::kOk:
      break;
  }
}

StreamStatus PageStore::Fetch(std::uint64_t volume_id, std::uint64_t epoch,
                              std::span<const std::uint64_t> slots, const PageSink& sink) {
  StreamStatus status = StreamStatus::kInvalid;
  if (!slots.empty() && slots.size() <= kFetchSlotsMax) {
    const std::shared_ptr<Volume> volume = impl_->volumes->Find(volume_id);
    status = volume ? volume->Check(epoch) : StreamStatus::kUnknownVolume;
  }
  if (status != StreamStatus::kOk) {
    impl_->CountRefused(status);
    return status;
  }
  Lookup lookup(impl_->rocks.get());
  for (const std::uint64_t slot : slots) {
    lookup.Add(volume_id, slot);
  }
  lookup.Run(false);
  std::uint64_t found = 0;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const rocksdb::Status& read = lookup.status(i);
    const auto record = read.ok() ? DecodeRecord(slots[i], lookup.value(i)) : std::nullopt;
    if (record) {
      ++found;
      bytes += record->bytes.size();
      sink(i, PageStatus::kOk, *record);
    } else if (read.IsNotFound()) {
      impl_->counters.Add(Counter::fetches_not_found);
      sink(i, PageStatus::kNotFound, {});
    } else if (read.ok() || read.IsCorruption()) {
      impl_->counters.Add(Counter::fetches_corrupt);
      sink(i, PageStatus::kCorrupt, {});
    } else {
      impl_->counters.Add(Counter::fetches_io_error);
      sink(i, PageStatus::kIoError, {});
    }
  }
  impl_->counters.Add(Counter::fetches, found);
  impl_->counters.Add(Counter::fetch_bytes, bytes);
  return status;
}

Result<StreamStatus> PageStore::Discard(std::uint64_t volume_id, std::uint64_t epoch,
                                        std::span<const DiscardItem> items,
                                        std::uint64_t* discarded) {
  *discarded = 0;
  StreamStatus status = StreamStatus::kInvalid;
  rocksdb::Status written;
  if (items.size() <= kDiscardItemsMax) {
    const std::shared_ptr<Volume> volume = impl_->volumes->Find(volume_id);
    status = volume ? volume->Check(epoch) : StreamStatus::kUnknownVolume;
    const auto in_range = [&](const DiscardItem& item) { return volume->Holds(item.slot); };
    if (status == StreamStatus::kOk && !std::ranges::all_of(items, in_range)) {
      status = StreamStatus::kInvalid;
    }
    for (std::size_t i = 0; i < items.size() && status == StreamStatus::kOk && written.ok();
         i += kBatchPagesMax) {
      const auto some = items.subspan(i, std::min(kBatchPagesMax, items.size() - i));
      status = impl_->DiscardSome(volume.get(), epoch, some, discarded, &written);
    }
  }
  impl_->counters.Add(Counter::discards, *discarded);
  impl_->CountRefused(status);
  return written.ok() ? Result<StreamStatus>(status) : Error{written.ToString()};
}

StreamStatus PageStore::Impl::DiscardSome(Volume* volume, std::uint64_t epoch,
                                          std::span<const DiscardItem> items,
                                          std::uint64_t* discarded, rocksdb::Status* status) {
  // By slot, the highest version first; the others of a slot are dropped.
  std::array<DiscardItem, kBatchPagesMax> sorted;
  auto end = std::copy(items.begin(), items.end(), sorted.begin());
  std::sort(sorted.begin(), end, [](const DiscardItem& a, const DiscardItem& b) {
    return a.slot != b.slot ? a.slot < b.slot : a.version > b.version;
  });
  end = std::unique(sorted.begin(), end,
                    [](const DiscardItem& a, const DiscardItem& b) { return a.slot == b.slot; });
  const std::span<const DiscardItem> unique(sorted.begin(), end);
  std::uint32_t mask = 0;
  Lookup lookup(rocks.get());
  for (const DiscardItem& item : unique) {
    mask |= std::uint32_t{1} << Volume::StripeOf(item.slot);
    lookup.Add(volume->id, item.slot);
  }
  const StripesLock stripes(volume, mask);
  if (const StreamStatus usable = volume->Check(epoch); usable != StreamStatus::kOk) {
    return usable;
  }
  lookup.Run(true);
  rocksdb::WriteBatch writes;
  Usage change;
  for (std::size_t i = 0; i < unique.size(); ++i) {
    const auto record =
        lookup.status(i).ok() ? DecodeRecord(unique[i].slot, lookup.value(i)) : std::nullopt;
    if (record && record->version <= unique[i].version) {
      const PageKey key = EncodePageKey(volume->id, unique[i].slot);
      writes.Delete(rocks->pages, AsSlice(key));
      change.pages -= 1;
      change.bytes -= static_cast<std::int64_t>(RecordBytes(record->bytes.size()));
    }
  }
  if (change.pages == 0) {
    return StreamStatus::kOk;
  }
  writes.Merge(rocks->usage, EncodeVolumeKey(volume->id), EncodeUsage(change));
  *status = rocks->Write(&writes);
  if (status->ok()) {
    volume->pages += change.pages;
    volume->bytes += change.bytes;
    volumes->Release(static_cast<std::uint64_t>(-change.bytes));
    *discarded += static_cast<std::uint64_t>(-change.pages);
  }
  return StreamStatus::kOk;
}

std::uint64_t PageStore::capacity_bytes() const { return impl_->config.capacity_bytes; }
std::uint64_t PageStore::used_bytes() const { return impl_->volumes->live_bytes(); }
Counters& PageStore::counters() { return impl_->counters; }

std::vector<VolumeInfo> PageStore::Volumes() const {
  std::vector<VolumeInfo> infos;
  for (const std::shared_ptr<Volume>& volume : impl_->volumes->List()) {
    infos.push_back({volume->id, volume->host_id, volume->device, volume->incarnation,
                     volume->epoch, static_cast<std::uint64_t>(volume->pages.load()),
                     static_cast<std::uint64_t>(volume->bytes.load()), volume->garbage});
  }
  std::ranges::sort(infos, {}, [](const VolumeInfo& info) {
    return std::pair(EncodeDeviceName(info.host_id, info.device), info.epoch);
  });
  return infos;
}

std::vector<std::pair<std::string, std::uint64_t>> PageStore::Stats() const {
  std::uint64_t pages = 0;
  std::uint64_t garbage_bytes = 0;
  for (const VolumeInfo& volume : Volumes()) {
    pages += volume.garbage ? 0 : volume.pages;
    garbage_bytes += volume.garbage ? volume.bytes : 0;
  }
  rocksdb::DB* db = impl_->rocks->db.get();
  std::vector<std::pair<std::string, std::uint64_t>> stats = {
      {"capacity_bytes", capacity_bytes()},
      {"used_bytes", used_bytes()},
      {"garbage_bytes", garbage_bytes},
      {"disk_bytes", FileBytes(impl_->config.path)},
      {"pages", pages},
      {"writes_stopped", Property(db, impl_->rocks->pages, "rocksdb.is-write-stopped")},
      {"background_errors", Property(db, impl_->rocks->pages, "rocksdb.background-errors")},
  };
  for (std::size_t i = 0; i < kCounterCount; ++i) {
    const auto counter = static_cast<Counter>(i);
    stats.emplace_back(CounterName(counter), impl_->counters.Get(counter));
  }
  return stats;
}

}  // namespace farswap::store
