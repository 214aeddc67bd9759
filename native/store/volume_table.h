// The volumes of a server, their epochs, and which are garbage.
//
// Every change is on the disk (fsync) before it takes effect in memory, so that an epoch never
// goes back and a retired incarnation stays retired, also after a power loss. A volume is open,
// then garbage, then deleted; a device's record, with its epoch and retired incarnations, is never
// deleted. Called by PageStore (any thread) and by the GarbageCollector.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
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
  // Limit for volumes and for devices, which take about 2 KiB of memory each.
  static constexpr std::size_t kVolumesMax = 16384;
  // Retired incarnations per device. A host that returns after more successors is not recognized.
  static constexpr std::size_t kRetiredMax = 64;

  // Limit of events for TakeEvents(); the oldest are dropped.
  static constexpr std::size_t kEventsMax = 256;

  /// `quota_default`: of devices without a quota of their own.
  VolumeTable(Rocks* rocks, const RunningClock* clock, const LeaseConfig& config,
              std::uint64_t quota_default)
      : rocks_(rocks), clock_(clock), config_(config), quota_default_(quota_default) {}

  /// Reads all records. Call it once, first.
  Outcome Load();
  /// Call it after Load() if pages may be missing: marks all open volumes, in the batch too.
  void AddNotIntact(rocksdb::WriteBatch* batch);

  OpenedVolume Open(const OpenRequest& request);
  /// Makes it garbage. kOk if it already is.
  Result<CallStatus> Close(std::uint64_t volume_id, std::uint64_t epoch);

  /// Makes the device's volume garbage. Its incarnation is FENCED from then on. An error if there
  /// is none, or if its owner is live, unless `force`.
  Result<std::shared_ptr<Volume>> Delete(const std::string& host_id, const std::string& device,
                                         bool force);
  /// nullopt: the default. Of this volume and all that succeed it. An error if the device was never
  /// open here.
  Outcome SetQuota(const std::string& host_id, const std::string& device,
                   std::optional<std::uint64_t> quota_bytes);

  /// A heartbeat of the owner.
  CallStatus Hear(std::uint64_t volume_id, std::uint64_t epoch, const Heartbeat& heartbeat);
  /// Makes volumes of hosts that are silent for too long garbage; returns their number.
  std::size_t ExpireSilent();
  /// Saves changed times of silence, in minutes.
  void SaveSilence();
  std::vector<OwnerEvent> TakeEvents();

  std::shared_ptr<Volume> Find(std::uint64_t volume_id) const;
  std::vector<std::shared_ptr<Volume>> List() const;
  /// Some garbage volume, or null.
  std::shared_ptr<Volume> NextGarbage() const;
  /// Removes a garbage volume after its pages.
  Outcome Forget(const Volume& volume);

  /// Applies a change of usage that was written, with the volume's stripe locked.
  void Apply(const Usage& change, Volume* volume) {
    volume->pages += change.pages;
    const auto fewer = static_cast<std::uint64_t>(-change.bytes);  // wraps if there are more
    volume->bytes.Release(fewer);
    live_bytes_.Release(fewer);
  }

  /// Of live pages of all volumes.
  KeptBytes& live_bytes() { return live_bytes_; }

 private:
  struct Device {
    DeviceRecord record;
    std::optional<std::uint64_t> quota;
    std::shared_ptr<Volume> current;  // the open one, if any
    VolumeRecord saved;               // its record in the store
  };

  Outcome LoadVolumes();
  Outcome LoadUsage();
  std::uint64_t QuotaOf(const Device& device) const {
    return device.quota.value_or(quota_default_);
  }
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
  const std::uint64_t quota_default_;
  std::mutex open_mutex_;                    // serializes every change; held across the fsync
  std::map<std::string, Device> devices_;    // by EncodeDeviceName(); under open_mutex_
  std::deque<OwnerEvent> events_;            // under open_mutex_
  mutable std::shared_mutex volumes_mutex_;  // after open_mutex_; never held across I/O
  std::unordered_map<std::uint64_t, std::shared_ptr<Volume>> volumes_;
  KeptBytes live_bytes_;
};

}  // namespace farswap::store
