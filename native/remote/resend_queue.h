// Items that wait for a server's answer, oldest first: a prefix that was sent on the current
// stream, then unsent ones. When the stream breaks, all count as unsent, in the same order. Later
// items expire later. Intrusive, allocates nothing, does not own; the caller locks.
#pragma once

#include <cstddef>

#include "base/check.h"
#include "remote/lane.h"

namespace farswap::remote {

/// T has the members `T* older`, `T* newer` and `bool sent`, which belong to the queue, and
/// `TimePoint expires`.
template <typename T>
class ResendQueue {
 public:
  T* oldest() const { return oldest_; }
  T* oldest_unsent() const { return unsent_; }
  std::size_t sent_count() const { return sent_count_; }
  T* newest() const { return newest_; }
  /// Of the oldest, or kNever.
  TimePoint expires() const { return oldest_ ? oldest_->expires : kNever; }

  void Append(T* item) {
    item->older = newest_;
    item->newer = nullptr;
    item->sent = false;
    (newest_ ? newest_->newer : oldest_) = item;
    newest_ = item;
    if (!unsent_) unsent_ = item;
  }

  /// The oldest unsent item has been sent.
  void MarkSent() {
    FARSWAP_CHECK(unsent_);
    unsent_->sent = true;
    unsent_ = unsent_->newer;
    ++sent_count_;
  }

  void Remove(T* item) {
    if (item->sent) --sent_count_;
    if (item == unsent_) unsent_ = item->newer;
    (item->older ? item->older->newer : oldest_) = item->newer;
    (item->newer ? item->newer->older : newest_) = item->older;
  }

  /// Removes and returns the oldest if it has expired by `now`, sent or not; else nullptr.
  T* TakeExpired(TimePoint now) {
    T* const item = oldest_;
    if (!item || item->expires > now) return nullptr;
    Remove(item);
    return item;
  }

  /// The stream is gone: all count as unsent.
  void Rewind() {
    for (T* item = oldest_; item != unsent_; item = item->newer) item->sent = false;
    unsent_ = oldest_;
    sent_count_ = 0;
  }

 private:
  T* oldest_ = nullptr;
  T* newest_ = nullptr;
  T* unsent_ = nullptr;
  std::size_t sent_count_ = 0;
};

}  // namespace farswap::remote
