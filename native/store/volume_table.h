// The volumes of a server: which exist, which epoch each device is at, which are garbage.
//
// Every change is on the disk (fsync) before it takes effect in memory, so that an epoch never
// goes back and a dead incarnation stays dead, also after a power loss. A volume goes through
// open -> garbage -> gone; a device's record, with its epoch and the incarnations it has retired,
// stays for ever. Called by PageStore (any thread) and by the GarbageCollector.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "store/ownership.h"
#include "store/protocol.h"
#include "store/rocks.h"
#include "store/running_clock.h"
#include "store/volume.h"

namespace farswap::store {

class VolumeTable {
 public:
  // Volumes and devices each. One costs about 2 KiB of memory.
  static constexpr std::size_t kVolumesMax = 16384;
  // Of a device: a replaced host that comes back within so many successors is told so.
  static constexpr std::size_t kRetiredMax = 64;

  // Kept for TakeEvents(); the oldest go first.
  static constexpr std::size_t kEventsMax = 256;

  VolumeTable(Rocks* rocks, const RunningClock* clock, const LeaseConfig& config)
      : rocks_(rocks), clock_(clock), config_(config) {}

  /// Reads all records. Called once, before anything else.
  Outcome Load();
  /// Right after Load(): of every open volume, pages may be missing. Adds that to the batch.
  void AddNotIntact(rocksdb::WriteBatch* batch);

  OpenedVolume Open(const OpenRequest& request);
  /// Makes it garbage. kOk also if it is garbage already.
  Result<CallStatus> Close(std::uint64_t volume_id, std::uint64_t epoch);

  /// The owner says that it lives.
  CallStatus Hear(std::uint64_t volume_id, std::uint64_t epoch, std::uint64_t boot_ms);
  /// Makes volumes garbage whose hosts were silent for too long; returns how many.
  std::size_t ExpireSilent();
  /// Saves how long hosts were silent, in minutes, where that has changed.
  void SaveSilence();
  std::vector<OwnerEvent> TakeEvents();

  std::shared_ptr<Volume> Find(std::uint64_t volume_id) const;
  std::vector<std::shared_ptr<Volume>> List() const;
  /// Some garbage volume, or nothing.
  std::shared_ptr<Volume> NextGarbage() const;
  /// Forgets a garbage volume whose pages are deleted.
  Outcome Forget(const Volume& volume);

  /// Bytes of live pages. Reserve() fails, and takes nothing, if `bytes` more are over `limit`.
  std::uint64_t live_bytes() const { return live_bytes_.load(std::memory_order_relaxed); }
  bool Reserve(std::uint64_t bytes, std::uint64_t limit);
  void Release(std::uint64_t bytes) { live_bytes_.fetch_sub(bytes, std::memory_order_relaxed); }

 private:
  struct Device {
    DeviceRecord record;
    std::shared_ptr<Volume> current;  // the open one, if any
    VolumeRecord saved;               // of it, as it is in the store
  };

  Outcome LoadVolumes();
  Outcome LoadUsage();
  Outcome AddLoaded(std::uint64_t volume_id, const VolumeRecord& record);
  OpenedVolume Judge(const OpenRequest& request, const Device& device, OpenDecision decision) const;
  void OpenNew(const std::string& name, const OpenRequest& request, Device* device,
               OpenedVolume* opened);
  void OpenForNewNonce(const std::string& name, const OpenRequest& request, Device* device,
                       OpenedVolume* opened);
  void NoteSuccession(const OpenRequest& request, const OpenedVolume& opened, const Owner& before);
  void AddEvent(OwnerEvent event);
  rocksdb::Status CloseCurrent(const std::string& name, Device* device);
  void Retire(const std::shared_ptr<Volume>& volume, std::uint64_t epoch);
  std::uint64_t NewVolumeId() const;

  Rocks* rocks_;
  const RunningClock* clock_;
  const LeaseConfig config_;
  std::mutex open_mutex_;                    // serializes every change; held across the fsync
  std::map<std::string, Device> devices_;    // by EncodeDeviceName(); under open_mutex_
  std::deque<OwnerEvent> events_;            // under open_mutex_
  mutable std::shared_mutex volumes_mutex_;  // after open_mutex_; never held across I/O
  std::unordered_map<std::uint64_t, std::shared_ptr<Volume>> volumes_;
  std::atomic<std::uint64_t> live_bytes_{0};
};

}  // namespace farswap::store
