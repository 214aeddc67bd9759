#include "store/page_store.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <system_error>

#include "store/garbage_collector.h"
#include "store/identity.h"
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
  VolumeInfo InfoOf(const Volume& volume) const;

  explicit Impl(const PageStoreConfig& store_config)
      : config(store_config), clock(store_config.clock) {}

  Outcome Load();
  Outcome MarkOpen();
  void Close();
  void WakeCollector() {
    if (garbage_collector) {
      garbage_collector->Wake();
    }
  }
  const PageStoreConfig config;
  RunningClock clock;
  Counters counters;
  std::unique_ptr<Rocks> rocks;  // outlives what follows
  std::optional<Identity> identity;
  std::unique_ptr<VolumeTable> volumes;
  std::optional<GarbageCollector> garbage_collector;
};

PageStore::PageStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

PageStore::~PageStore() {
  impl_->garbage_collector.reset();
  impl_->Close();
}

Result<std::unique_ptr<PageStore>> PageStore::Open(const PageStoreConfig& config) {
  auto rocks = OpenRocks(config.path, config.block_cache_bytes);
  if (!rocks.ok()) {
    return rocks.error();
  }
  auto impl = std::make_unique<Impl>(config);
  impl->rocks = std::move(rocks.value());
  if (Outcome loaded = impl->Load(); !loaded.ok()) {
    return Error{"store " + config.path + ": " + loaded.error().message};
  }
  if (config.collect_garbage) {
    impl->garbage_collector.emplace(impl->rocks.get(), impl->volumes.get(), &impl->counters);
  }
  return std::unique_ptr<PageStore>(new PageStore(std::move(impl)));
}

Outcome PageStore::Impl::Load() {
  Result<Identity> loaded = Identity::Load(rocks.get(), config.boot_id_path);
  if (!loaded.ok()) {
    return loaded.error();
  }
  identity = std::move(loaded.value());
  volumes = std::make_unique<VolumeTable>(rocks.get(), &clock, config.leases);
  Outcome read = volumes->Load();
  return read.ok() ? MarkOpen() : read;
}

// Before the store takes the first page. The marks of the volumes replace the one of the store.
Outcome PageStore::Impl::MarkOpen() {
  rocksdb::WriteBatch batch;
  if (!identity->intact()) {
    volumes->AddNotIntact(&batch);
  }
  identity->AddOpen(rocks.get(), &batch);
  if (const rocksdb::Status status = rocks->WriteSynced(&batch); !status.ok()) {
    return Error{status.ToString()};
  }
  identity->NoteMarked();
  return Unit{};
}

void PageStore::Impl::Close() {
  volumes->SaveSilence();
  if (!rocks->db->Flush({}, {rocks->pages, rocks->volumes, rocks->usage}).ok()) {
    return;
  }
  rocksdb::WriteBatch batch;
  identity->AddClosed(rocks.get(), &batch);
  rocks->WriteSynced(&batch).PermitUncheckedError();  // then pages count as missing after a reboot
}

OpenedVolume PageStore::OpenVolume(const OpenRequest& request) {
  OpenedVolume opened;
  opened.status = OpenStatus::kInvalid;
  if (!IsName(request.host_id) || !IsName(request.device)) {
    opened.message = "host_id and device take 1 to 128 bytes";
  } else if (request.owner.host_name.size() > kNameBytesMax) {
    opened.message = "host_name takes at most 128 bytes";
  } else if (request.slots == 0 || request.slots > kVolumeSlotsMax) {
    opened.message = "slots is 1 to " + std::to_string(kVolumeSlotsMax);
  } else {
    opened = impl_->volumes->Open(request);
  }
  if (request.probe) {
    return opened;
  }
  if (opened.status != OpenStatus::kOk) {
    const bool live_owner = opened.status == OpenStatus::kAlreadyOpen;
    impl_->counters.Add(live_owner ? Counter::opens_already_open : Counter::opens_refused);
    return opened;
  }
  impl_->counters.Add(Counter::opens);
  impl_->WakeCollector();
  return opened;
}

StreamStatus PageStore::Hear(std::uint64_t volume_id, std::uint64_t epoch) {
  const StreamStatus status = impl_->volumes->Hear(volume_id, epoch);
  if (status != StreamStatus::kOk) {
    impl_->CountRefused(status);
  }
  return status;
}

void PageStore::Tick() { impl_->clock.Tick(); }

void PageStore::ExpireSilent() {
  const std::size_t expired = impl_->volumes->ExpireSilent();
  impl_->volumes->SaveSilence();
  if (expired > 0) {
    impl_->counters.Add(Counter::volumes_expired, expired);
    impl_->WakeCollector();
  }
}

std::vector<OwnerEvent> PageStore::TakeOwnerEvents() { return impl_->volumes->TakeEvents(); }

Result<StreamStatus> PageStore::CloseVolume(std::uint64_t volume_id, std::uint64_t epoch) {
  auto closed = impl_->volumes->Close(volume_id, epoch);
  if (closed.ok() && closed.value() == StreamStatus::kOk) {
    impl_->counters.Add(Counter::closes);
    impl_->WakeCollector();
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

const Id& PageStore::uuid() const { return impl_->identity->uuid(); }
const Id& PageStore::run_id() const { return impl_->identity->run_id(); }

std::chrono::milliseconds PageStore::owner_lease() const {
  return impl_->config.leases.owner_lease;
}

ServerState PageStore::state() const {
  const bool full = used_bytes() + RecordBytes(tier::kPageBytes) > capacity_bytes();
  return full ? ServerState::kFull : ServerState::kActive;
}

std::uint64_t PageStore::capacity_bytes() const { return impl_->config.capacity_bytes; }
std::uint64_t PageStore::used_bytes() const { return impl_->volumes->live_bytes(); }
Counters& PageStore::counters() { return impl_->counters; }

VolumeInfo PageStore::Impl::InfoOf(const Volume& volume) const {
  const std::chrono::milliseconds now = clock.Now();
  VolumeInfo info{
      .volume_id = volume.id,
      .host_id = volume.host_id,
      .device = volume.device,
      .incarnation = volume.incarnation,
      .epoch = volume.epoch,
      .pages = static_cast<std::uint64_t>(volume.pages.load()),
      .bytes = static_cast<std::uint64_t>(volume.bytes.load()),
      .garbage = volume.garbage,
      .intact = volume.intact,
      .owner = volume.owner(),
      .live = volume.Idle(now) <= config.leases.owner_lease,
      .silence = volume.Silence(now),
      .expires_in = {},
  };
  if (config.leases.expire_after.count() > 0) {
    info.expires_in = std::max<std::chrono::milliseconds>(config.leases.expire_after - info.silence,
                                                          std::chrono::milliseconds(0));
  }
  return info;
}

std::vector<VolumeInfo> PageStore::Volumes() const {
  std::vector<VolumeInfo> infos;
  for (const std::shared_ptr<Volume>& volume : impl_->volumes->List()) {
    infos.push_back(impl_->InfoOf(*volume));
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
