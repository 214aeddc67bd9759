// Looks after the disk of a store: its room, and writing again after the disk was full or failed.
//
// One thread, "fs-disk", looks at the disk a few times a second. While the store cannot be written
// to it tries to repair that, less and less often, and at once when there is room again.
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
  /// `write_error` returns why nothing can be written, or nothing; `repair` tries to change that.
  struct Store {
    std::function<Room::CompactionNeeds()> compaction_needs;
    std::function<std::string()> write_error;
    std::function<void()> repair;
  };

  /// Looks once.
  DiskGuard(Room* room, Store store);
  ~DiskGuard();

  /// Why no pages are accepted, for operators; empty if they are.
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
