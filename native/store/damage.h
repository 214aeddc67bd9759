// Shards that may lack objects here, because records of them were damaged and deleted. A report of
// them is on the disk until the volume's host has compared the shards with another replica.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "base/result.h"
#include "store/record.h"
#include "store/rocks.h"

namespace farswap::store {

/// Of() and End() on any thread, the others on one: their writes may stall, and hold no lock.
class Damage {
 public:
  static constexpr std::size_t kReportsMax = 16;  // of one volume in one answer

  explicit Damage(Rocks* rocks) : rocks_(rocks) {}

  /// Reads all reports. Call it once, first.
  Outcome Load();
  /// Reports the shards from `first` through `last`, on the disk before it returns. A new report
  /// replaces those that overlap: the host may have compared their shards before this damage.
  rocksdb::Status Add(std::uint64_t volume_id, std::uint64_t first, std::uint64_t last);
  /// The oldest reports of a volume, kReportsMax at most.
  std::vector<DamagedShards> Of(std::uint64_t volume_id) const;
  /// Ends a report; false: it was replaced, or has ended. Never waits for RocksDB.
  bool End(std::uint64_t volume_id, std::uint64_t report);
  /// Deletes the records of reports that have ended, and reports of volumes that `lives` denies.
  void Save(const std::function<bool(std::uint64_t volume_id)>& lives);
  /// Number of shards that are reported.
  std::uint64_t shards() const;

 private:
  using Reports = std::map<std::pair<std::uint64_t, std::uint64_t>, DamagedShards>;
  Reports::const_iterator Begin(std::uint64_t volume_id) const {
    return reports_.lower_bound({volume_id, 0});
  }

  Rocks* const rocks_;
  mutable std::mutex mutex_;                                 // guards all below
  Reports reports_;                                          // by volume and number
  std::set<std::pair<std::uint64_t, std::uint64_t>> ended_;  // their records are still there
  std::uint64_t last_report_ = 0;
};

}  // namespace farswap::store
