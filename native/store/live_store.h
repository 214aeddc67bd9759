// The RocksDB of a running store, what was loaded from it, and what keeps it running.
//
// When RocksDB stops writing, it is exchanged for a read-only instance, and that for a writable one
// when the disk works (DiskGuard calls Repair()). Calls hold `exchange` shared meanwhile. Private
// to store/.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include "store/damage.h"
#include "store/disk_guard.h"
#include "store/garbage_collector.h"
#include "store/identity.h"
#include "store/page_store.h"
#include "store/rocks.h"
#include "store/room.h"
#include "store/scrubber.h"
#include "store/volume_table.h"

namespace farswap::store {

/// A gauge of RocksDB; 0 if there is none.
std::uint64_t IntProperty(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family,
                          const std::string& name);

struct LiveStore {
  explicit LiveStore(const PageStoreConfig& store_config);
  /// Flushes if there is room, so that the next start replays no log.
  ~LiveStore();
  LiveStore(const LiveStore&) = delete;
  LiveStore& operator=(const LiveStore&) = delete;

  /// Call it once, first.
  Outcome Open();
  /// See PageStore.
  Outcome SetDraining(bool wanted);
  Outcome RemoveServer(const Id& uuid);

  /// Call it with `exchange` held.
  bool AcceptsPages() const { return !rocks->error->is_set() && room.has_room(); }
  ScrubPass scrub_pass() const { return scrubber ? scrubber->pass() : scrub_pass_; }
  void WakeCollector() {
    if (garbage_collector) garbage_collector->Wake();
  }

  const PageStoreConfig config;
  const std::shared_ptr<rocksdb::FileSystem> files;
  RunningClock clock;
  Counters counters;
  Room room;
  // Shared in every call, exclusive while the read-only and the writable instance are exchanged.
  // The first lock of all.
  mutable std::shared_mutex exchange;
  std::unique_ptr<Rocks> rocks;  // outlives the members below
  std::optional<Identity> identity;
  std::mutex identity_mutex;          // serializes changes of the identity; after `exchange`
  std::atomic<bool> draining{false};  // identity->draining(), once it is on the disk
  mutable std::mutex removed_mutex;   // a leaf; guards the next
  std::vector<Id> removed;            // identity->removed(), once it is on the disk
  std::unique_ptr<VolumeTable> volumes;
  std::unique_ptr<Damage> damage;
  // None of these while the store is read-only.
  std::unique_ptr<GarbageCollector> garbage_collector;
  std::unique_ptr<Scrubber> scrubber;
  std::optional<DiskGuard> disk_guard;

 private:
  Outcome Load();
  Outcome LoadVolumes();
  Outcome MarkOpen(VolumeTable* table);
  void Close();
  Outcome WriteIdentity();
  void SetRemoved(std::vector<Id> uuids);

  RocksConfig rocks_config() { return {config.path, config.block_cache_bytes, &room, files}; }
  Room::CompactionNeeds CompactionNeeds();
  std::string WriteErrorText();
  void Repair();
  bool OpenForReading();
  void OpenForWriting();
  void StartWorkers();

  ScrubPass scrub_pass_;  // when the store was opened
};

}  // namespace farswap::store
