// Deletes the pages of garbage volumes in the background, one volume after another.
//
// For each: files that lie wholly in its range of keys are dropped, the rest of the range is
// covered by one range deletion, and a compaction of the range (rate-limited with all background
// work) gives the space back. The volume's record goes last, so that a crash at any point only
// means that the next start does it again.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/result.h"
#include "store/counters.h"
#include "store/rocks.h"
#include "store/volume_table.h"

namespace farswap::store {

class GarbageCollector {
 public:
  /// Starts the thread "fs-garbage".
  GarbageCollector(Rocks* rocks, VolumeTable* volumes, Counters* counters);
  /// Leaves what is under way to the next start.
  ~GarbageCollector();

  /// A volume has become garbage.
  void Wake();

 private:
  void Run();
  bool WaitForWork(bool failed);
  Outcome Collect(const Volume& volume);

  Rocks* rocks_;
  VolumeTable* volumes_;
  Counters* counters_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool woken_ = true;                  // a start looks once
  std::atomic<bool> stopping_{false};  // also cancels a compaction
  std::thread thread_;
};

}  // namespace farswap::store
