// The volumes of a server: which exist, which epoch each device is at, which are garbage.
//
// Every change is on the disk (fsync) before it takes effect in memory, so that an epoch never
// goes back and a dead incarnation stays dead, also after a power loss. A volume goes through
// open -> garbage -> gone; a device's record, with its epoch and the incarnations it has retired,
// stays for ever. Called by PageStore (any thread) and by the GarbageCollector.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "store/protocol.h"
#include "store/rocks.h"
#include "store/volume.h"

namespace farswap::store {

class VolumeTable {
 public:
  // Volumes and devices each. One costs about 2 KiB of memory.
  static constexpr std::size_t kVolumesMax = 16384;
  // Of a device: a replaced host that comes back within so many successors is told so.
  static constexpr std::size_t kRetiredMax = 64;

  explicit VolumeTable(Rocks* rocks) : rocks_(rocks) {}

  /// Reads all records. Called once, before anything else.
  Outcome Load();

  OpenedVolume Open(const std::string& host_id, const std::string& device,
                    const Incarnation& incarnation, std::uint64_t slots);
  /// Makes it garbage. kOk also if it is garbage already.
  Result<StreamStatus> Close(std::uint64_t volume_id, std::uint64_t epoch);

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
  };

  Outcome LoadVolumes();
  Outcome LoadUsage();
  Outcome AddLoaded(std::uint64_t volume_id, const VolumeRecord& record);
  OpenedVolume OpenNew(const std::string& name, Device* device, VolumeRecord record);
  void Retire(const std::shared_ptr<Volume>& volume, std::uint64_t epoch);
  std::uint64_t NewVolumeId() const;

  Rocks* rocks_;
  std::mutex open_mutex_;                    // serializes every change; held across the fsync
  std::map<std::string, Device> devices_;    // by EncodeDeviceName(); under open_mutex_
  mutable std::shared_mutex volumes_mutex_;  // after open_mutex_; never held across I/O
  std::unordered_map<std::uint64_t, std::shared_ptr<Volume>> volumes_;
  std::atomic<std::uint64_t> live_bytes_{0};
};

}  // namespace farswap::store
