#include "tier/manual_job.h"

namespace farswap::tier {

bool ManualJob::Start(const WritebackJob& job) {
  const std::lock_guard lock(mutex_);
  if (!state_.finished || in_flight_pages_ > 0) return false;
  job_ = job;
  state_ = {job.bytes, 0, 0, false, ""};
  return true;
}

void ManualJob::Cancel() {
  const std::lock_guard lock(mutex_);
  End("cancelled");
}

Tier::ManualWriteback ManualJob::Progress() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

std::optional<ManualJob::Rest> ManualJob::NotSent() const {
  const std::lock_guard lock(mutex_);
  if (state_.finished) return std::nullopt;
  const std::uint64_t target = (state_.target_bytes + kPageBytes - 1) / kPageBytes;
  const std::uint64_t sent = state_.written_bytes / kPageBytes + in_flight_pages_;
  return Rest{job_, target > sent ? target - sent : 0};
}

void ManualJob::OnSent(std::size_t pages) {
  const std::lock_guard lock(mutex_);
  in_flight_pages_ += pages;
}

void ManualJob::OnAnswered(const Writeback::Answer& answer) {
  const std::lock_guard lock(mutex_);
  in_flight_pages_ -= answer.pages;
  state_.written_bytes += answer.acked_pages * kPageBytes;
  state_.sent_bytes += answer.acked_bytes;
  if (state_.written_bytes >= state_.target_bytes) {
    End("");
  } else if (answer.server_full && answer.acked_pages == 0) {
    End("the memory servers are full");
  }
}

void ManualJob::OnNothingLeft() {
  const std::lock_guard lock(mutex_);
  if (in_flight_pages_ == 0) End("no more entries to write back");
}

void ManualJob::End(const char* reason) {
  if (state_.finished) return;
  state_.finished = true;
  state_.stopped_because = reason;
}

}  // namespace farswap::tier
