#include "store/page_store.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <shared_mutex>
#include <system_error>

#include "store/discard_batch.h"
#include "store/live_store.h"
#include "store/lookup.h"
#include "store/put_batch.h"
#include "store/shard_list.h"

namespace farswap::store {
namespace {

bool IsName(const std::string& name) { return !name.empty() && name.size() <= kNameBytesMax; }

std::uint64_t FileBytes(const std::string& path) {
  std::uint64_t total = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code gone;  // files may vanish in a running store
    const std::uintmax_t bytes = it->file_size(gone);
    total += gone ? 0 : bytes;
  }
  return total;
}

}  // namespace

struct PageStore::Impl : LiveStore {
  using LiveStore::LiveStore;

  struct PutOutcome {
    CallStatus status;
    bool disk_full = false;        // all results are kFull
    std::uint64_t over_quota = 0;  // of the results that are kFull
    ObjectCount written{};
  };
  PutOutcome PutObjects(std::uint64_t volume_id, std::uint64_t epoch,
                        std::span<const ObjectRecord> objects, std::span<ObjectStatus> results,
                        const ShardCopying* copying = nullptr);
  void CountPuts(std::span<const ObjectRecord> objects, std::span<const ObjectStatus> results,
                 std::uint64_t over_quota);
  CallStatus CountRefused(CallStatus status);
  VolumeInfo InfoOf(const Volume& volume) const;
};

PageStore::PageStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

PageStore::~PageStore() = default;

Result<std::unique_ptr<PageStore>> PageStore::Open(const PageStoreConfig& config) {
  auto impl = std::make_unique<Impl>(config);
  if (Outcome opened = impl->Open(); !opened.ok()) return opened.error();
  return std::unique_ptr<PageStore>(new PageStore(std::move(impl)));
}

OpenedVolume PageStore::OpenVolume(const OpenRequest& request) {
  const std::shared_lock lock(impl_->exchange);
  OpenedVolume opened;
  opened.status = OpenStatus::kInvalid;
  if (!IsName(request.host_id) || !IsName(request.device)) {
    opened.message = "host_id and device must have 1 to 128 bytes";
  } else if (request.owner.host_name.size() > kNameBytesMax) {
    opened.message = "host_name must have at most 128 bytes";
  } else if (request.slots == 0 || request.slots > kVolumeSlotsMax) {
    opened.message = "slots must be 1 to " + std::to_string(kVolumeSlotsMax);
  } else {
    opened = impl_->volumes->Open(request);
  }
  if (request.probe) return opened;
  if (opened.status == OpenStatus::kOk) {
    impl_->counters.Add(Counter::opens);
    impl_->WakeCollector();
  } else {
    const bool live_owner = opened.status == OpenStatus::kAlreadyOpen;
    impl_->counters.Add(live_owner ? Counter::opens_already_open : Counter::opens_refused);
  }
  return opened;
}

CallStatus PageStore::Hear(std::uint64_t volume_id, std::uint64_t epoch,
                           const Heartbeat& heartbeat) {
  const std::shared_lock lock(impl_->exchange);
  return impl_->CountRefused(impl_->volumes->Hear(volume_id, epoch, heartbeat));
}

void PageStore::Tick() { impl_->clock.Tick(); }

void PageStore::ExpireSilent() {
  const std::shared_lock lock(impl_->exchange);
  const std::size_t expired = impl_->volumes->ExpireSilent();
  impl_->volumes->SaveSilence();
  if (expired > 0) {
    impl_->counters.Add(Counter::volumes_expired, expired);
    impl_->WakeCollector();
  }
}

std::vector<OwnerEvent> PageStore::TakeOwnerEvents() {
  const std::shared_lock lock(impl_->exchange);
  return impl_->volumes->TakeEvents();
}

Result<CallStatus> PageStore::CloseVolume(std::uint64_t volume_id, std::uint64_t epoch) {
  const std::shared_lock lock(impl_->exchange);
  auto closed = impl_->volumes->Close(volume_id, epoch);
  if (closed.ok() && impl_->CountRefused(closed.value()) == CallStatus::kOk) {
    impl_->counters.Add(Counter::closes);
    impl_->WakeCollector();
  }
  return closed;
}

Result<VolumeInfo> PageStore::DeleteVolume(const std::string& host_id, const std::string& device,
                                           bool force) {
  const std::shared_lock lock(impl_->exchange);
  auto deleted = impl_->volumes->Delete(host_id, device, force);
  if (!deleted.ok()) return deleted.error();
  impl_->counters.Add(Counter::volumes_deleted);
  impl_->WakeCollector();
  return impl_->InfoOf(*deleted.value());
}

Outcome PageStore::SetQuota(const std::string& host_id, const std::string& device,
                            std::optional<std::uint64_t> quota_bytes) {
  const std::shared_lock lock(impl_->exchange);
  return impl_->volumes->SetQuota(host_id, device, quota_bytes);
}

CallStatus PageStore::Put(std::uint64_t volume_id, std::uint64_t epoch,
                          std::span<const ObjectRecord> objects, std::span<ObjectStatus> results) {
  const auto outcome = impl_->PutObjects(volume_id, epoch, objects, results);
  if (outcome.disk_full) {
    impl_->counters.Add(Counter::puts_disk_full, objects.size());
  } else if (outcome.status == CallStatus::kOk) {
    impl_->CountPuts(objects, results, outcome.over_quota);
  }
  return impl_->CountRefused(outcome.status);
}

CallStatus PageStore::PutCopies(std::uint64_t volume_id, std::uint64_t epoch,
                                const ShardCopying& copying, std::span<const ObjectRecord> objects,
                                std::span<ObjectStatus> results, ObjectCount* written) {
  const auto outcome = impl_->PutObjects(volume_id, epoch, objects, results, &copying);
  *written = outcome.written;
  impl_->counters.Add(Counter::copied_objects, written->objects);
  impl_->counters.Add(Counter::copied_bytes, written->bytes);
  return outcome.status;
}

PageStore::Impl::PutOutcome PageStore::Impl::PutObjects(std::uint64_t volume_id,
                                                        std::uint64_t epoch,
                                                        std::span<const ObjectRecord> objects,
                                                        std::span<ObjectStatus> results,
                                                        const ShardCopying* copying) {
  if (objects.size() > kBatchObjectsMax) return {CallStatus::kInvalid};
  const std::shared_lock lock(exchange);
  const std::shared_ptr<Volume> volume = volumes->Find(volume_id);
  CallStatus status = volume ? volume->Check(epoch) : CallStatus::kUnknownVolume;
  if (status != CallStatus::kOk) return {status};
  if (!AcceptsPages()) {
    std::ranges::fill(results, ObjectStatus::kFull);
    return {.status = status, .disk_full = true};
  }
  PutBatch batch(rocks.get(), volumes.get(), volume.get(), objects, results,
                 copying && copying->replace_equal);
  batch.Validate();
  const StripesLock stripes(volume.get(), batch.stripes());
  status = volume->Check(epoch);
  if (status != CallStatus::kOk) return {status};
  if (copying && !volume->NoteCopy(*copying)) return {CallStatus::kStaleGeneration};
  batch.Compare(config.capacity_bytes - (copying ? 0 : config.reserve_bytes));
  return {.status = status, .over_quota = batch.over_quota(), .written = batch.Write()};
}

void PageStore::Impl::CountPuts(std::span<const ObjectRecord> objects,
                                std::span<const ObjectStatus> results, std::uint64_t over_quota) {
  std::array<std::uint64_t, 8> by_status{};
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < objects.size(); ++i) {
    ++by_status[static_cast<std::size_t>(results[i])];
    bytes += results[i] == ObjectStatus::kOk ? objects[i].bytes.size() : 0;
  }
  const auto of = [&](ObjectStatus status) { return by_status[static_cast<std::size_t>(status)]; };
  counters.Add(Counter::puts, of(ObjectStatus::kOk));
  counters.Add(Counter::puts_superseded, of(ObjectStatus::kSuperseded));
  counters.Add(Counter::puts_full, of(ObjectStatus::kFull) - over_quota);
  counters.Add(Counter::puts_over_quota, over_quota);
  counters.Add(Counter::puts_invalid, of(ObjectStatus::kInvalid));
  counters.Add(Counter::puts_io_error, of(ObjectStatus::kIoError));
  counters.Add(Counter::put_bytes, bytes);
}

// Returns `status`.
CallStatus PageStore::Impl::CountRefused(CallStatus status) {
  if (status == CallStatus::kFenced) counters.Add(Counter::fenced);
  if (status == CallStatus::kUnknownVolume) counters.Add(Counter::unknown_volume);
  if (status == CallStatus::kInvalid) counters.Add(Counter::invalid_batches);
  if (status == CallStatus::kRetryAfter || status == CallStatus::kStaleGeneration) {
    counters.Add(Counter::copies_refused);
  }
  return status;
}

CallStatus PageStore::Get(std::uint64_t volume_id, std::uint64_t epoch,
                          std::span<const std::uint64_t> keys, const ObjectSink& sink) {
  const std::shared_lock lock(impl_->exchange);
  CallStatus status = CallStatus::kInvalid;
  if (!keys.empty() && keys.size() <= kGetKeysMax) {
    const std::shared_ptr<Volume> volume = impl_->volumes->Find(volume_id);
    status = volume ? volume->Check(epoch) : CallStatus::kUnknownVolume;
  }
  if (status != CallStatus::kOk) return impl_->CountRefused(status);
  Lookup lookup(impl_->rocks.get());
  for (const std::uint64_t key : keys) lookup.Add(volume_id, key);
  lookup.Run(false);
  std::uint64_t found = 0;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const rocksdb::Status& read = lookup.status(i);
    const auto record = read.ok() ? DecodeRecord(keys[i], lookup.value(i)) : std::nullopt;
    if (record) {
      ++found;
      bytes += record->bytes.size();
      sink(i, ObjectStatus::kOk, *record);
    } else if (read.IsNotFound()) {
      impl_->counters.Add(Counter::gets_not_found);
      sink(i, ObjectStatus::kNotFound, {});
    } else if (read.ok() || read.IsCorruption()) {
      impl_->counters.Add(Counter::gets_corrupt);
      sink(i, ObjectStatus::kCorrupt, {});
    } else {
      impl_->counters.Add(Counter::gets_io_error);
      sink(i, ObjectStatus::kIoError, {});
    }
  }
  impl_->counters.Add(Counter::gets, found);
  impl_->counters.Add(Counter::get_bytes, bytes);
  return status;
}

Result<CallStatus> PageStore::Discard(std::uint64_t volume_id, std::uint64_t epoch,
                                      std::span<const DiscardItem> items,
                                      std::uint64_t* discarded) {
  *discarded = 0;
  if (!impl_->room.has_room_for_records()) {
    return Error{"the server refuses pages: " + disk_problem()};
  }
  const std::shared_lock lock(impl_->exchange);
  CallStatus status = CallStatus::kInvalid;
  rocksdb::Status written;
  if (items.size() <= kDiscardItemsMax) {
    const std::shared_ptr<Volume> volume = impl_->volumes->Find(volume_id);
    status = volume ? volume->Check(epoch) : CallStatus::kUnknownVolume;
    const auto in_range = [&](const DiscardItem& item) { return volume->Holds(item.key); };
    if (status == CallStatus::kOk && !std::ranges::all_of(items, in_range)) {
      status = CallStatus::kInvalid;
    }
    for (std::size_t i = 0; i < items.size() && status == CallStatus::kOk && written.ok();
         i += kBatchObjectsMax) {
      const auto some = items.subspan(i, std::min(kBatchObjectsMax, items.size() - i));
      status = DiscardBatch(impl_->rocks.get(), impl_->volumes.get(), volume.get(), epoch, some,
                            discarded, &written);
    }
  }
  impl_->counters.Add(Counter::discards, *discarded);
  impl_->CountRefused(status);
  return written.ok() ? Result<CallStatus>(status) : Error{written.ToString()};
}

Result<CallStatus> PageStore::ListShard(std::uint64_t volume_id, std::uint64_t epoch,
                                        std::uint64_t shard, std::uint64_t cursor,
                                        ShardList* list) {
  const std::shared_lock lock(impl_->exchange);
  const std::shared_ptr<Volume> volume = impl_->volumes->Find(volume_id);
  CallStatus status = volume ? volume->Check(epoch) : CallStatus::kUnknownVolume;
  if (status == CallStatus::kOk && shard >= volume->shards()) status = CallStatus::kInvalid;
  if (status != CallStatus::kOk) return impl_->CountRefused(status);
  const rocksdb::Status read = store::ListShard(impl_->rocks.get(), volume_id, shard, cursor, list);
  return read.ok() ? Result<CallStatus>(status) : Error{read.ToString()};
}

CallStatus PageStore::Versions(std::uint64_t volume_id, std::uint64_t epoch,
                               std::span<const std::uint64_t> keys,
                               std::span<std::uint64_t> versions) {
  const std::shared_lock lock(impl_->exchange);
  const std::shared_ptr<Volume> volume = impl_->volumes->Find(volume_id);
  const CallStatus status = volume ? volume->Check(epoch) : CallStatus::kUnknownVolume;
  for (std::size_t i = 0; status == CallStatus::kOk && i < keys.size(); i += kBatchObjectsMax) {
    const auto some = keys.subspan(i, std::min(kBatchObjectsMax, keys.size() - i));
    Lookup lookup(impl_->rocks.get());
    for (const std::uint64_t key : some) lookup.Add(volume_id, key);
    lookup.Run(true);
    for (std::size_t j = 0; j < some.size(); ++j) {
      const auto record =
          lookup.status(j).ok() ? DecodeRecord(some[j], lookup.value(j)) : std::nullopt;
      versions[i + j] = record ? record->version : 0;
    }
  }
  return status;
}

CallStatus PageStore::CheckCopy(std::uint64_t volume_id, std::uint64_t epoch,
                                const ShardCopying& copying) {
  const std::shared_lock lock(impl_->exchange);
  const std::shared_ptr<Volume> volume = impl_->volumes->Find(volume_id);
  const CallStatus status = volume ? volume->Check(epoch) : CallStatus::kUnknownVolume;
  if (status != CallStatus::kOk) return status;
  if (copying.shard >= volume->shards()) return CallStatus::kInvalid;
  return volume->NoteCopy(copying) ? CallStatus::kOk : CallStatus::kStaleGeneration;
}

void PageStore::CountRefused(CallStatus status) { impl_->CountRefused(status); }

Result<std::vector<std::uint64_t>> PageStore::ShardsOf(std::uint64_t volume_id) const {
  const std::shared_lock lock(impl_->exchange);
  std::vector<std::uint64_t> shards;
  const rocksdb::Status read = FindShards(impl_->rocks.get(), volume_id, &shards);
  if (!read.ok()) {
    return Error{read.ToString()};
  }
  return shards;
}

std::vector<DamagedShards> PageStore::DamageOf(std::uint64_t volume_id) const {
  const std::shared_lock lock(impl_->exchange);
  return impl_->damage->Of(volume_id);
}

void PageStore::EndDamage(std::uint64_t volume_id, std::uint64_t report, std::uint64_t objects) {
  const std::shared_lock lock(impl_->exchange);
  if (impl_->damage->End(volume_id, report)) {
    impl_->counters.Add(Counter::scrub_repaired_objects, objects);
  }
}

Outcome PageStore::Scrub() {
  const std::shared_lock lock(impl_->exchange);
  if (!impl_->scrubber) return Error{"the store is read-only: " + impl_->rocks->error->text()};
  impl_->scrubber->Request();
  return std::monostate{};
}

Outcome PageStore::SetDraining(bool draining) { return impl_->SetDraining(draining); }

Outcome PageStore::RemoveServer(const Id& uuid) { return impl_->RemoveServer(uuid); }

std::vector<Id> PageStore::removed_servers() const {
  const std::lock_guard lock(impl_->removed_mutex);
  return impl_->removed;
}

const Id& PageStore::uuid() const { return impl_->identity->uuid(); }
const Id& PageStore::run_id() const { return impl_->identity->run_id(); }

std::chrono::milliseconds PageStore::owner_lease() const {
  return impl_->config.leases.owner_lease;
}

ServerState PageStore::state() const {
  if (impl_->draining) return ServerState::kDraining;
  if (!disk_problem().empty()) return ServerState::kDiskFull;
  const bool full =
      used_bytes() + RecordBytes(tier::kPageBytes) + impl_->config.reserve_bytes > capacity_bytes();
  return full ? ServerState::kFull : ServerState::kActive;
}

ServerState PageStore::StateFor(std::uint64_t volume_id) const {
  const ServerState all = state();
  if (all != ServerState::kActive) return all;
  const std::shared_lock lock(impl_->exchange);
  const std::shared_ptr<Volume> volume = impl_->volumes->Find(volume_id);
  return volume && volume->AtQuota() ? ServerState::kQuotaReached : all;
}

std::uint64_t PageStore::capacity_bytes() const { return impl_->config.capacity_bytes; }
std::uint64_t PageStore::used_bytes() const {
  const std::shared_lock lock(impl_->exchange);
  return impl_->volumes->live_bytes().value();
}
std::string PageStore::disk_problem() const { return impl_->disk_guard->problem(); }
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
      .bytes = volume.bytes.value(),
      .quota_bytes = {},
      .at_quota = volume.AtQuota(),
      .garbage = volume.garbage,
      .intact = volume.intact,
      .owner = volume.owner(),
      .live = volume.Idle(now) <= config.leases.owner_lease,
      .silence = volume.Silence(now),
      .expires_in = {},
      .placement = volume.placement(),
  };
  if (const std::uint64_t quota = volume.quota_bytes; quota != kNoQuota) info.quota_bytes = quota;
  if (config.leases.expire_after.count() > 0) {
    info.expires_in = std::max<std::chrono::milliseconds>(config.leases.expire_after - info.silence,
                                                          std::chrono::milliseconds(0));
  }
  return info;
}

std::vector<VolumeInfo> PageStore::Volumes() const {
  const std::shared_lock lock(impl_->exchange);
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
  const bool takes_pages = disk_problem().empty();
  const std::shared_lock lock(impl_->exchange);
  rocksdb::DB* db = impl_->rocks->db.get();
  const ScrubPass pass = impl_->scrub_pass();
  std::vector<std::pair<std::string, std::uint64_t>> stats = {
      {"capacity_bytes", capacity_bytes()},
      {"reserve_bytes", impl_->config.reserve_bytes},
      {"used_bytes", impl_->volumes->live_bytes().value()},
      {"garbage_bytes", garbage_bytes},
      {"disk_bytes", FileBytes(impl_->config.path)},
      {"disk_free_bytes", impl_->room.free_bytes()},
      {"disk_reserve_bytes", impl_->room.reserve_bytes()},
      {"ballast_bytes", impl_->room.ballast_bytes()},
      {"ballast_bytes_max", impl_->room.ballast_bytes_max()},
      {"disk_full", takes_pages ? 0U : 1U},
      {"draining", impl_->draining ? 1U : 0U},
      {"pages", pages},
      {"writes_stopped", IntProperty(db, impl_->rocks->pages, "rocksdb.is-write-stopped")},
      {"background_errors", IntProperty(db, impl_->rocks->pages, "rocksdb.background-errors")},
      {"scrub_running", pass.running ? 1U : 0U},
      {"scrub_pass_bytes", pass.read_bytes},
      {"scrub_passes", pass.passes},
      {"scrub_ended_ago_seconds", pass.ended_ago_ms / 1000},
      {"scrub_damaged_shards", impl_->damage->shards()},
  };
  for (std::size_t i = 0; i < kCounterCount; ++i) {
    const auto counter = static_cast<Counter>(i);
    stats.emplace_back(CounterName(counter), impl_->counters.Get(counter));
  }
  return stats;
}

}  // namespace farswap::store
