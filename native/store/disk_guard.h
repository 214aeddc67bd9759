// Watches the disk of a store, and makes the store writable again after the disk was full or
// failed.
//
// One thread, "fs-disk", checks the disk a few times a second. While the store is not writable it
// tries to repair that, with growing intervals, and at once when there is room again.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "store/room.h"

namespace farswap::store {

class DiskGuard {
 public:
  /// `write_error` returns why the store is not writable, or ""; `repair` tries to change that.
  struct Store {
    std::function<Room::CompactionNeeds()> compaction_needs;
    std::function<std::string()> write_error;
    std::function<void()> repair;
  };

  /// Checks the disk once.
  DiskGuard(Room* room, Store store);
  ~DiskGuard();

  /// Why the store refuses pages, for operators; empty if it accepts them.
  std::string problem() const;

 private:
  void Run();

  Room* const room_;
  const Store store_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace farswap::store
