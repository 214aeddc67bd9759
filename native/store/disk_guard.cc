#include "store/disk_guard.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/thread.h"

namespace farswap::store {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLookEvery{250};
constexpr std::chrono::milliseconds kRepairAfterMin{250};
constexpr std::chrono::milliseconds kRepairAfterMax{8000};

}  // namespace

DiskGuard::DiskGuard(Room* room, Store store) : room_(room), store_(std::move(store)) {
  room_->Look(store_.compaction_needs());
  thread_ = StartThread("fs-disk", [this] { Run(); });
}

DiskGuard::~DiskGuard() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  thread_.join();
}

std::string DiskGuard::problem() const {
  const std::string error = store_.write_error();
  return error.empty() ? room_->problem() : error;
}

void DiskGuard::Run() {
  Clock::time_point repair_at = Clock::now();
  std::chrono::milliseconds repair_after = kRepairAfterMin;
  std::unique_lock lock(mutex_);
  while (!stop_.wait_for(lock, kLookEvery, [this] { return stopping_; })) {
    const bool had_room = room_->has_room();
    room_->Look(store_.compaction_needs());
    if (store_.write_error().empty()) {
      repair_after = kRepairAfterMin;
      repair_at = Clock::now();
      continue;
    }
    if (Clock::now() >= repair_at || (room_->has_room() && !had_room)) {
      store_.repair();
      repair_at = Clock::now() + repair_after;
      repair_after = std::min(2 * repair_after, kRepairAfterMax);
    }
  }
}

}  // namespace farswap::store
