// The pages of a memory server on RocksDB: the protocol's PageStore without its transport.
//
// Invariants, after any crash of the process: Get() returns an object whose Put() returned kOk
// until a higher version is put, it is discarded, or its volume ends; the newest epoch is on the
// disk; used_bytes is exact, but for records in damaged blocks of files, which count as much as
// what replaces them. Thread-safe. Put() and Discard() may wait for a RocksDB stall, Get() never
// does. Called by PageService.
//
// Reads go on when the disk is full or fails. Pages are then refused with kFull, early enough for
// RocksDB to write the accepted ones (room.h), and accepted again when the disk works. A store that
// cannot be opened for writing is opened for reading until it can.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "store/counters.h"
#include "store/ownership.h"
#include "store/protocol.h"
#include "store/record.h"
#include "store/running_clock.h"
#include "store/scrub_config.h"

namespace rocksdb {
class FileSystem;
}

namespace farswap::store {

struct PageStoreConfig {
  std::string path;
  std::uint64_t capacity_bytes = 0;  // of live pages, with their keys and headers
  std::uint64_t reserve_bytes = 0;   // the last part of it, only for copies from other servers
  std::uint64_t quota_default = kNoQuota;  // of volumes without one of their own
  std::uint64_t block_cache_bytes = 0;
  ScrubConfig scrub{};
  bool collect_garbage = true;  // off only in tests of crashes
  LeaseConfig leases{};
  RunningClock::Source clock = &RunningClock::Steady;
  std::string boot_id_path = "/proc/sys/kernel/random/boot_id";
  std::shared_ptr<rocksdb::FileSystem> files = nullptr;  // tests inject failures here
};

struct VolumeInfo {
  std::uint64_t volume_id;
  std::string host_id;
  std::string device;
  Incarnation incarnation;
  std::uint64_t epoch;
  std::uint64_t pages;
  std::uint64_t bytes;
  std::optional<std::uint64_t> quota_bytes;
  bool at_quota;  // the quota refuses pages
  bool garbage;
  bool intact;  // false: pages may be missing, and the owner was not yet informed
  Owner owner;
  bool live;                          // whether the owner is live
  std::chrono::milliseconds silence;  // time since the owner was heard, while servers ran
  std::optional<std::chrono::milliseconds> expires_in;
  std::optional<VolumePlacement> placement;  // of the owner's last heartbeat
};

class PageStore {
 public:
  /// Gets the index of each key, its status, and the object if that is kOk. The object's bytes are
  /// valid during the call.
  using ObjectSink = std::function<void(std::size_t, ObjectStatus, const ObjectRecord&)>;

  static Result<std::unique_ptr<PageStore>> Open(const PageStoreConfig& config);
  /// No call may be in progress. Flushes if there is room, so that the next start replays no log.
  ~PageStore();

  OpenedVolume OpenVolume(const OpenRequest& request);
  /// A heartbeat of the owner. Never waits for RocksDB.
  CallStatus Hear(std::uint64_t volume_id, std::uint64_t epoch, const Heartbeat& heartbeat);
  Result<CallStatus> CloseVolume(std::uint64_t volume_id, std::uint64_t epoch);

  /// One atomic write. Sets `results`, one per object, if it returns kOk. Objects of one key take
  /// effect in their order.
  CallStatus Put(std::uint64_t volume_id, std::uint64_t epoch,
                 std::span<const ObjectRecord> objects, std::span<ObjectStatus> results);
  CallStatus Get(std::uint64_t volume_id, std::uint64_t epoch, std::span<const std::uint64_t> keys,
                 const ObjectSink& sink);
  /// Items of one key count as one with the highest version. On an error of RocksDB, earlier items
  /// stay discarded.
  Result<CallStatus> Discard(std::uint64_t volume_id, std::uint64_t epoch,
                             std::span<const DiscardItem> items, std::uint64_t* discarded);

  /// A part of what is kept of a shard; an error is RocksDB's.
  Result<CallStatus> ListShard(std::uint64_t volume_id, std::uint64_t epoch, std::uint64_t shard,
                               std::uint64_t cursor, ShardList* list);

  /// As Put(), for objects of one shard from another server. Counts what it wrote.
  CallStatus PutCopies(std::uint64_t volume_id, std::uint64_t epoch, const ShardCopying& copying,
                       std::span<const ObjectRecord> objects, std::span<ObjectStatus> results,
                       ObjectCount* written);
  /// Versions of the objects of ascending keys; 0: there is none, or it is damaged.
  CallStatus Versions(std::uint64_t volume_id, std::uint64_t epoch,
                      std::span<const std::uint64_t> keys, std::span<std::uint64_t> versions);
  /// Whether a copy of the shard may run; kStaleGeneration: one of a newer generation has begun.
  CallStatus CheckCopy(std::uint64_t volume_id, std::uint64_t epoch, const ShardCopying& copying);
  /// Counts a call that was refused without a call of this class.
  void CountRefused(CallStatus status);

  /// The shards of which an object is kept, ascending.
  Result<std::vector<std::uint64_t>> ShardsOf(std::uint64_t volume_id) const;

  /// Advances the RunningClock of leases and silence.
  void Tick();
  /// Deletes volumes of hosts that are silent for too long. Call it every few seconds.
  void ExpireSilent();
  std::vector<OwnerEvent> TakeOwnerEvents();

  /// See VolumeTable. Delete() returns the volume's last state.
  Result<VolumeInfo> DeleteVolume(const std::string& host_id, const std::string& device,
                                  bool force);
  Outcome SetQuota(const std::string& host_id, const std::string& device,
                   std::optional<std::uint64_t> quota_bytes);

  /// Shards of the volume that may lack objects; its host compares them with another replica.
  std::vector<DamagedShards> DamageOf(std::uint64_t volume_id) const;
  /// The host has compared the shards of a report, and had `objects` copied.
  void EndDamage(std::uint64_t volume_id, std::uint64_t report, std::uint64_t objects);
  /// Begins a pass of the scrub now. An error if the store is read-only.
  Outcome Scrub();

  /// Starts or ends a drain: hosts learn it from state(), and move their shards to other servers.
  /// It is on the disk (fsync) before it takes effect. No change if it cannot be written.
  Outcome SetDraining(bool draining);
  /// Tells hosts that another server's store never comes back, as above. The newest 64 are kept.
  Outcome RemoveServer(const Id& uuid);
  std::vector<Id> removed_servers() const;

  const Id& uuid() const;
  const Id& run_id() const;
  std::chrono::milliseconds owner_lease() const;
  /// The state that hosts act on. A drain comes before a full disk and a reached capacity: those
  /// move no shard away, and the answers to Puts report them in any case.
  ServerState state() const;
  /// The same for the host of a volume: kQuotaReached in place of kActive.
  ServerState StateFor(std::uint64_t volume_id) const;
  std::uint64_t capacity_bytes() const;
  std::uint64_t used_bytes() const;
  /// Why the store refuses pages, for operators; empty if it accepts them.
  std::string disk_problem() const;
  std::vector<VolumeInfo> Volumes() const;
  /// Gauges capacity_bytes, used_bytes, disk_bytes, pages, ... and all counters, by name.
  std::vector<std::pair<std::string, std::uint64_t>> Stats() const;
  Counters& counters();

 private:
  struct Impl;
  explicit PageStore(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace farswap::store
