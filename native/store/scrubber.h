// Reads all records of live volumes in order of their keys, once in an interval, and verifies their
// checksums and those of RocksDB's blocks. One thread, "fs-scrub".
//
// A damaged record is deleted, and its shard reported to the volume's host (Damage), which compares
// the shard with another replica and has what is missing copied. A damaged block is emptied
// (FileCleaner), also when a compaction or a discard has met it.
//
// The pass is spread over the interval, and reads a little at a time, past the block cache. Its
// position is saved each minute. It counts running time (RunningClock), so a step of the wall clock
// changes nothing.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "store/counters.h"
#include "store/damage.h"
#include "store/file_cleaner.h"
#include "store/record.h"
#include "store/rocks.h"
#include "store/running_clock.h"
#include "store/scrub_config.h"
#include "store/volume_table.h"
#include "tier/page.h"

namespace farswap::store {

class Scrubber {
 public:
  /// What the scrubber reads and changes. All of it outlives the scrubber.
  struct Store {
    Rocks* rocks;
    VolumeTable* volumes;
    Damage* damage;
    Counters* counters;
    const RunningClock* clock;
  };

  /// The last pass of the store.
  static Result<ScrubPass> Load(Rocks* rocks);

  /// Goes on with the pass.
  Scrubber(const Store& store, const ScrubConfig& config, const ScrubPass& pass);
  ~Scrubber();  // saves the position

  /// Begins a pass, unless one that was requested is running.
  void Request();
  ScrubPass pass() const;

 private:
  struct Place {
    std::uint64_t volume_id;
    std::uint64_t key;
  };

  void Run();
  bool Wait(std::chrono::nanoseconds span);
  std::chrono::nanoseconds Step();
  void CleanFiles();
  bool BeginIfDue();
  std::uint64_t ReadSome();
  bool VerifyRecord(const Place& place, std::string_view value);
  void DeleteDamaged(const Place& place);
  bool PassDamage(const rocksdb::Status& status);
  void Skip();
  void EndPass();
  void Save();

  const Store store_;
  const ScrubConfig config_;
  FileCleaner cleaner_;
  std::chrono::milliseconds counted_until_;  // in pass_.elapsed_ms
  std::chrono::milliseconds saved_at_;
  std::uint64_t skip_keys_ = tier::kShardSlots;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  ScrubPass pass_;
  bool requested_ = false;
  bool woken_ = false;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace farswap::store
