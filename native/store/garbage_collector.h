// Deletes the pages of garbage volumes in the background, one volume after the other.
//
// For each volume it drops files wholly in its range of keys, deletes the rest of the range, and
// compacts it (rate-limited with all background work) to free the space. It deletes the volume's
// record last: after a crash, the next start repeats the work.
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
  /// Leaves unfinished work to the next start.
  ~GarbageCollector();

  /// Call it when a volume has become garbage.
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
  bool woken_ = true;                  // check once at the start
  std::atomic<bool> stopping_{false};  // also cancels a compaction
  std::thread thread_;
};

}  // namespace farswap::store
