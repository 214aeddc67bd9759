// The pages of a memory server: PageStore of the protocol without its transport, over RocksDB.
//
// Invariants, after any crash of the process: an object whose Put() answered kOk is read back until
// a higher version is stored, it is discarded, or its volume ends; the newest epoch given out is
// remembered (also by the disk); used_bytes is exact. Thread-safe; Put() and Discard() may wait
// for RocksDB when it stalls writers, Get() never does. Called by PageService on the
// threads of its two queues.
//
// A disk that is full or fails stops no reads: pages are refused with kFull, in good time for
// RocksDB to write what it has accepted (room.h), and accepted again when the disk works. A store
// that cannot be opened for writing is opened for reading, until it can.
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

namespace rocksdb {
class FileSystem;
}

namespace farswap::store {

struct PageStoreConfig {
  std::string path;
  std::uint64_t capacity_bytes = 0;  // of live pages, with their keys and headers
  std::uint64_t block_cache_bytes = 0;
  bool collect_garbage = true;  // off only to look at what a crash would leave
  LeaseConfig leases{};
  RunningClock::Source clock = &RunningClock::Steady;
  std::string boot_id_path = "/proc/sys/kernel/random/boot_id";
  std::shared_ptr<rocksdb::FileSystem> files = nullptr;  // the machine's, or one that tests break
};

struct VolumeInfo {
  std::uint64_t volume_id;
  std::string host_id;
  std::string device;
  Incarnation incarnation;
  std::uint64_t epoch;
  std::uint64_t pages;
  std::uint64_t bytes;
  bool garbage;
  bool intact;  // or else its owner has yet to be told that pages may be missing
  Owner owner;
  bool live;                          // the owner, by the lease
  std::chrono::milliseconds silence;  // since the owner was heard, while servers ran
  std::optional<std::chrono::milliseconds> expires_in;
};

class PageStore {
 public:
  /// Gets the index of each key, what became of it, and the object if that is kOk. The object's
  /// bytes live during the call.
  using ObjectSink = std::function<void(std::size_t, ObjectStatus, const ObjectRecord&)>;

  static Result<std::unique_ptr<PageStore>> Open(const PageStoreConfig& config);
  /// Nothing may be under way. Flushes if there is room, so that the next start has nothing to
  /// replay.
  ~PageStore();

  OpenedVolume OpenVolume(const OpenRequest& request);
  /// The owner says that it lives. Never waits for RocksDB.
  CallStatus Hear(std::uint64_t volume_id, std::uint64_t epoch, std::uint64_t boot_ms);
  Result<CallStatus> CloseVolume(std::uint64_t volume_id, std::uint64_t epoch);

  /// One atomic write; `results` are as many as `objects` and set if it returns kOk. Objects of one
  /// key take effect in their order.
  CallStatus Put(std::uint64_t volume_id, std::uint64_t epoch,
                 std::span<const ObjectRecord> objects, std::span<ObjectStatus> results);
  CallStatus Get(std::uint64_t volume_id, std::uint64_t epoch, std::span<const std::uint64_t> keys,
                 const ObjectSink& sink);
  /// Items of one key count as one with the highest version. An error is RocksDB's; what was
  /// discarded until then stays so.
  Result<CallStatus> Discard(std::uint64_t volume_id, std::uint64_t epoch,
                             std::span<const DiscardItem> items, std::uint64_t* discarded);

  /// See RunningClock: leases and silence are measured by it.
  void Tick();
  /// Ends volumes whose hosts are silent for too long. Call it every few seconds.
  void ExpireSilent();
  std::vector<OwnerEvent> TakeOwnerEvents();

  const Id& uuid() const;
  const Id& run_id() const;
  std::chrono::milliseconds owner_lease() const;
  ServerState state() const;
  std::uint64_t capacity_bytes() const;
  std::uint64_t used_bytes() const;
  /// Why the disk takes no pages, for operators; empty if it does.
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
