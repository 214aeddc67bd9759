#include "store/live_store.h"

#include <algorithm>
#include <utility>

namespace farswap::store {
namespace {

// RocksDB delays stores from 20 files on.
constexpr std::uint64_t kLevel0FilesMax = 12;
// Each heartbeat's answer has them all.
constexpr std::size_t kRemovedMax = 64;

}  // namespace

std::uint64_t IntProperty(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family,
                          const std::string& name) {
  std::uint64_t value = 0;
  db->GetIntProperty(family, name, &value);
  return value;
}

LiveStore::LiveStore(const PageStoreConfig& store_config)
    : config(store_config),
      files(config.files ? config.files : rocksdb::FileSystem::Default()),
      clock(config.clock),
      room(config.path, config.capacity_bytes) {}

Outcome LiveStore::Open() {
  bool unwritable = false;
  auto opened = OpenRocks(rocks_config(), &unwritable);
  if (!opened.ok() && unwritable) {
    auto reading = OpenRocksForReading(rocks_config(), opened.error().message);
    if (reading.ok()) opened = std::move(reading);
  }
  if (!opened.ok()) return opened.error();
  rocks = std::move(opened.value());
  Outcome loaded = Load();
  if (!loaded.ok() && rocks->error->is_set() && OpenForReading()) loaded = Load();
  if (!loaded.ok()) {
    return Error{"store " + config.path + ": " + loaded.error().message};
  }
  StartWorkers();
  disk_guard.emplace(&room,
                     DiskGuard::Store{[this] { return CompactionNeeds(); },
                                      [this] { return WriteErrorText(); }, [this] { Repair(); }});
  return std::monostate{};
}

LiveStore::~LiveStore() {
  if (!disk_guard) return;  // Open() has failed
  disk_guard.reset();
  garbage_collector.reset();
  scrubber.reset();
  Close();
}

Outcome LiveStore::Load() {
  Result<Identity> loaded = Identity::Load(rocks.get(), config.boot_id_path);
  if (!loaded.ok()) return loaded.error();
  identity = std::move(loaded.value());
  draining = identity->draining();
  SetRemoved(identity->removed());
  return LoadVolumes();
}

Outcome LiveStore::LoadVolumes() {
  auto table =
      std::make_unique<VolumeTable>(rocks.get(), &clock, config.leases, config.quota_default);
  Outcome loaded = table->Load();
  auto reports = std::make_unique<Damage>(rocks.get());
  if (loaded.ok()) loaded = reports->Load();
  auto pass = Scrubber::Load(rocks.get());
  if (loaded.ok() && !pass.ok()) loaded = pass.error();
  if (loaded.ok()) loaded = MarkOpen(table.get());
  if (!loaded.ok()) return loaded;
  volumes = std::move(table);
  damage = std::move(reports);
  scrub_pass_ = pass.value();
  return loaded;
}

// Called before the first page is stored. Marks of the volumes replace the one of the store. A
// read-only store is marked in memory.
Outcome LiveStore::MarkOpen(VolumeTable* table) {
  rocksdb::WriteBatch batch;
  if (!identity->intact()) table->AddNotIntact(&batch);
  if (!rocks->is_writable) {
    return std::monostate{};
  }
  identity->Add(rocks.get(), &batch, /*closed=*/false);
  if (const rocksdb::Status status = rocks->WriteSynced(&batch); !status.ok()) {
    return Error{status.ToString()};
  }
  identity->NoteMarked();
  return std::monostate{};
}

// If a disk without room prevents the flush, the synced log has those writes.
void LiveStore::Close() {
  volumes->SaveSilence();
  if (AcceptsPages() && !rocks->db->Flush({}, {rocks->pages, rocks->volumes, rocks->usage}).ok()) {
    return;
  }
  rocksdb::WriteBatch batch;
  identity->Add(rocks.get(), &batch, /*closed=*/true);
  // If this fails, pages count as missing after a reboot.
  rocks->WriteSynced(&batch).PermitUncheckedError();
}

void LiveStore::StartWorkers() {
  if (!rocks->is_writable) return;
  if (config.collect_garbage) {
    garbage_collector = std::make_unique<GarbageCollector>(rocks.get(), volumes.get(), &counters);
  }
  scrubber = std::make_unique<Scrubber>(
      Scrubber::Store{rocks.get(), volumes.get(), damage.get(), &counters, &clock}, config.scrub,
      scrub_pass_);
}

// A compaction reads at most level 0 and the level below, and writes each page once.
Room::CompactionNeeds LiveStore::CompactionNeeds() {
  const std::shared_lock lock(exchange);
  const std::uint64_t level0_files =
      IntProperty(rocks->db.get(), rocks->pages, "rocksdb.num-files-at-level0");
  const std::uint64_t live_bytes = volumes->live_bytes().value();
  const std::uint64_t bytes_max = volumes->NextGarbage() ? UINT64_MAX : live_bytes * 17 / 16;
  const std::uint64_t read_bytes = (level0_files + kLevelBaseMemtables) * room.memtable_bytes();
  return {std::min(read_bytes, bytes_max), bytes_max, level0_files >= kLevel0FilesMax};
}

std::string LiveStore::WriteErrorText() {
  const std::shared_lock lock(exchange);
  return rocks->error->text();
}

// Called only by the guard's thread. Reads go on meanwhile.
void LiveStore::Repair() {
  if (rocks->error->is_set() && (rocks->is_for_reading || OpenForReading())) OpenForWriting();
}

bool LiveStore::OpenForReading() {
  std::unique_ptr<GarbageCollector> collected;
  std::unique_ptr<Scrubber> scrubbed;
  {
    const std::unique_lock lock(exchange);  // waits for the last write
    rocks->is_writable = false;
    scrub_pass_ = scrub_pass();
    collected = std::move(garbage_collector);
    scrubbed = std::move(scrubber);
  }
  collected.reset();
  scrubbed.reset();
  auto reading = OpenRocksForReading(rocks_config(), rocks->error->text());
  if (!reading.ok()) return false;
  const std::unique_lock lock(exchange);
  rocks->Swap(reading.value().get());
  return true;
}

// Reloads the volumes: after a failed write only the disk knows whether it took effect.
void LiveStore::OpenForWriting() {
  bool unwritable = false;
  auto writing = OpenRocks(rocks_config(), &unwritable);
  if (!writing.ok()) return rocks->error->Set(writing.error().message);
  const std::unique_lock lock(exchange);
  rocks->Swap(writing.value().get());
  if (Outcome loaded = LoadVolumes(); !loaded.ok()) {
    rocks->Swap(writing.value().get());
    return rocks->error->Set(loaded.error().message);
  }
  StartWorkers();
}

Outcome LiveStore::SetDraining(bool wanted) {
  const std::shared_lock lock(exchange);
  const std::lock_guard serial(identity_mutex);
  const bool before = identity->draining();
  if (wanted == before) return std::monostate{};
  identity->SetDraining(wanted);
  if (Outcome written = WriteIdentity(); !written.ok()) {
    identity->SetDraining(before);
    return written;
  }
  draining = wanted;
  return std::monostate{};
}

Outcome LiveStore::RemoveServer(const Id& uuid) {
  const std::shared_lock lock(exchange);
  const std::lock_guard serial(identity_mutex);
  if (uuid == identity->uuid()) return Error{"a server cannot remove itself"};
  const std::vector<Id> before = identity->removed();
  std::vector<Id> after = before;
  std::erase(after, uuid);
  if (after.size() == kRemovedMax) after.erase(after.begin());
  after.push_back(uuid);
  identity->SetRemoved(after);
  if (Outcome written = WriteIdentity(); !written.ok()) {
    identity->SetRemoved(before);
    return written;
  }
  SetRemoved(std::move(after));
  return std::monostate{};
}

Outcome LiveStore::WriteIdentity() {
  rocksdb::WriteBatch batch;
  identity->Add(rocks.get(), &batch, /*closed=*/false);
  const rocksdb::Status status = rocks->WriteSynced(&batch);
  if (!status.ok()) return Error{"store " + config.path + ": " + status.ToString()};
  return std::monostate{};
}

void LiveStore::SetRemoved(std::vector<Id> uuids) {
  const std::lock_guard lock(removed_mutex);
  removed = std::move(uuids);
}

}  // namespace farswap::store
