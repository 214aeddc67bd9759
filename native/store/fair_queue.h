// Requests that wait for a thread, by volume: deficit round robin.
//
// Volumes with waiting requests take turns. A turn adds kQuantumBytes to what the volume may spend,
// and lasts while that pays for its next request; the rest is kept for its next turn, or lost when
// no request is left. So volumes get equal shares of bytes, however many streams each has, and a
// small request waits for at most one large one of each other volume.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace farswap::store {

/// Thread-safe.
class FairQueue {
 public:
  static constexpr std::uint64_t kQuantumBytes = std::uint64_t{64} << 10;
  // Maximum cost of a request: more than any valid one, and few turns.
  static constexpr std::uint64_t kJobBytesMax = 64 * kQuantumBytes;

  class Job {
   public:
    /// Called once by the thread that took it. May delete the object.
    virtual void Serve() = 0;

   protected:
    ~Job() = default;

   private:
    friend class FairQueue;
    std::uint64_t bytes_ = 0;
    Job* next_ = nullptr;
  };

  void Add(std::uint64_t volume_id, std::uint64_t bytes, Job* job) {
    job->bytes_ = std::min(bytes, kJobBytesMax);
    job->next_ = nullptr;
    const std::lock_guard lock(mutex_);
    for (Volume& volume : volumes_) {
      if (volume.id != volume_id) continue;
      volume.last = volume.last->next_ = job;
      return;
    }
    volumes_.push_back({.id = volume_id, .first = job, .last = job});
  }

  /// The job whose turn it is; nullptr: there is none.
  Job* Take() {
    const std::lock_guard lock(mutex_);
    if (volumes_.empty()) return nullptr;
    for (;;) {
      if (turn_ >= volumes_.size()) turn_ = 0;
      Volume& volume = volumes_[turn_];
      if (!std::exchange(turn_began_, true)) volume.deficit_bytes += kQuantumBytes;
      if (volume.first->bytes_ <= volume.deficit_bytes) return TakeFrom(&volume);
      turn_began_ = false;
      ++turn_;
    }
  }

  bool empty() const {
    const std::lock_guard lock(mutex_);
    return volumes_.empty();
  }

 private:
  struct Volume {
    std::uint64_t id;
    Job* first;
    Job* last;
    std::uint64_t deficit_bytes = 0;
  };

  Job* TakeFrom(Volume* volume) {
    Job* const job = volume->first;
    volume->deficit_bytes -= job->bytes_;
    volume->first = job->next_;
    if (!volume->first) {
      volumes_.erase(volumes_.begin() + static_cast<std::ptrdiff_t>(turn_));
      turn_began_ = false;
    }
    return job;
  }

  mutable std::mutex mutex_;     // a leaf; guards all below
  std::vector<Volume> volumes_;  // with waiting jobs, in the order of their turns
  std::size_t turn_ = 0;         // index of the volume whose turn it is
  bool turn_began_ = false;
};

}  // namespace farswap::store
