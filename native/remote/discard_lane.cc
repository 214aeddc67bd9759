#include "remote/discard_lane.h"

#include <algorithm>
#include <optional>

#include "remote/wire.h"

namespace farswap::remote {

bool DiscardLane::HasRoom() const {
  const std::lock_guard lock(mutex_);
  return queue_.size() + tier::RemoteStore::kDiscardsMax <= kQueuedMax;
}

void DiscardLane::Add(std::span<const tier::DiscardItem> items) {
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    queue_.insert(queue_.end(), items.begin(), items.end());
    // The first one starts the timer; a full batch is sent at once.
    wake = gathering_since_ == kNever || queue_.size() - in_flight_ >= kBatchMax;
    if (gathering_since_ == kNever) gathering_since_ = Clock::now();
  }
  if (wake) observer_->OnLaneWork();
}

void DiscardLane::Open(v1::PageStore::Stub* stub, rpc::CompletionThreads* completions,
                       OpenedVolume volume) {
  completions_ = completions;
  stub_ = stub;
  volume_ = volume;
  const std::lock_guard lock(mutex_);
  retry_at_ = {};
}

void DiscardLane::Clear() {
  const std::lock_guard lock(mutex_);
  queue_.clear();
  gathering_since_ = kNever;
}

TimePoint DiscardLane::Service(TimePoint now) {
  {
    const std::lock_guard lock(mutex_);
    if (!stub_) return kNever;
    if (in_flight_ > 0) {
      if (now < give_up_at_) return give_up_at_;
      context_->TryCancel();
      return kNever;
    }
    if (queue_.empty()) return kNever;
    const bool full = queue_.size() >= kBatchMax;
    const TimePoint due = full ? retry_at_ : std::max(retry_at_, gathering_since_ + kGatherFor);
    if (now < due) return due;
    in_flight_ = std::min(queue_.size(), kBatchMax);
    request_.Clear();
    for (std::size_t i = 0; i < in_flight_; ++i) {
      v1::DiscardRequest::Item* const item = request_.add_items();
      item->set_key(queue_[i].key);
      item->set_version(queue_[i].version);
    }
  }
  Send();
  give_up_at_ = now + volume_.owner_lease / 2;
  return give_up_at_;
}

void DiscardLane::Send() {
  request_.set_volume_id(volume_.id);
  request_.set_epoch(volume_.epoch);
  context_ = std::make_unique<grpc::ClientContext>();
  call_ = stub_->AsyncDiscard(context_.get(), request_, completions_->queue());
  call_->Finish(&response_, &status_, completions_->Tag(this));
}

void DiscardLane::OnCompleted(bool) {
  const auto loss = status_.ok() ? VolumeLossOf(response_.status()) : std::nullopt;
  const bool again = loss || !status_.ok();
  // The observer first: once in_flight_ is zero, Detach() may return and the lane may be destroyed.
  if (loss) observer_->OnVolumeLost(*loss);
  const std::lock_guard lock(mutex_);
  if (again) {
    retry_at_ = Clock::now() + volume_.owner_lease / 10;
  } else {
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(in_flight_));
  }
  in_flight_ = 0;
  gathering_since_ = queue_.empty() ? kNever : Clock::now();
  // Under the lock: the session's thread may destroy the lane right after.
  observer_->OnLaneWork();
  call_done_.notify_all();
}

void DiscardLane::Detach() {
  if (!stub_) return;
  if (context_) context_->TryCancel();
  std::unique_lock lock(mutex_);
  call_done_.wait(lock, [this] { return in_flight_ == 0; });
  stub_ = nullptr;
  call_.reset();
  context_.reset();
}

}  // namespace farswap::remote
