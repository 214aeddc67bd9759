// Which Puts are under way. A joining replica may be copied once every Put to the set of replicas
// before has ended: the era is turned after the set has changed, and the copy waits for the end of
// the earlier eras. A Put joins an era before it reads any set. Thread-safe; its lock is a leaf.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>

namespace farswap::remote {

class PutEras {
 public:
  /// A Put begins: returns its era.
  std::uint64_t Begin() {
    const std::lock_guard lock(mutex_);
    ++under_way_.back();
    return first_ + under_way_.size() - 1;
  }
  /// A Put of the era has ended. True: an earlier era than the present one has.
  bool End(std::uint64_t era) {
    const std::lock_guard lock(mutex_);
    --under_way_[era - first_];
    const std::uint64_t before = first_;
    while (under_way_.size() > 1 && under_way_.front() == 0) {
      under_way_.pop_front();
      ++first_;
    }
    return first_ != before;
  }
  /// Later Puts are of another era. Returns that one: Reached() once all earlier Puts have ended.
  std::uint64_t Turn() {
    const std::lock_guard lock(mutex_);
    if (under_way_.size() == 1 && under_way_.front() == 0) return first_;
    under_way_.push_back(0);
    return first_ + under_way_.size() - 1;
  }
  bool Reached(std::uint64_t era) const {
    const std::lock_guard lock(mutex_);
    return first_ >= era;
  }

 private:
  mutable std::mutex mutex_;  // guards all below
  std::uint64_t first_ = 0;   // the earliest with Puts under way, or the present one
  std::deque<std::size_t> under_way_{0};
};

}  // namespace farswap::remote
