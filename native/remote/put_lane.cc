#include "remote/put_lane.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "remote/wire.h"

namespace farswap::remote {

using tier::PutResult;

PutLane::PutLane(std::chrono::milliseconds put_wait, std::chrono::milliseconds outage_wait,
                 std::chrono::milliseconds full_wait, LaneObserver* observer)
    : put_wait_(put_wait),
      outage_wait_(outage_wait),
      full_wait_(full_wait),
      observer_(observer),
      detached_at_(Clock::now()) {}

PutLane::~PutLane() { FARSWAP_CHECK(!queue_.oldest() && !answered_ && !stream_); }

bool PutLane::Put(PutPart* part) {
  {
    const std::lock_guard lock(mutex_);
    if (refusing_ || part->member != member_) return false;
    part->batch_id = ++batch_id_last_;
    part->expires = Clock::now() + put_wait_;
    queue_.Append(part);
  }
  observer_->OnLaneWork();
  return true;
}

void PutLane::Rebind(MemberIndex member) {
  FARSWAP_CHECK(!stream_);
  {
    const std::lock_guard lock(mutex_);
    member_ = member;
  }
  full_until_ = Clock::rep{0};
  FinishAnswered();
  EndExpired(kNever);
}

void PutLane::Open(v1::PageStore::Stub* stub, rpc::CompletionThreads* completions,
                   OpenedVolume volume) {
  FARSWAP_CHECK(!stream_);
  volume_ = volume;
  stream_ = std::make_unique<PutStream>(this, observer_, completions);
  stream_->Start(stub->PrepareAsyncPut(stream_->context(), completions->queue()));
  refuses_connections_ = false;
  const std::lock_guard lock(mutex_);
  refusing_ = false;
}

void PutLane::NoteSpace(std::uint64_t capacity_bytes, std::uint64_t used_bytes) {
  capacity_bytes_ = capacity_bytes;
  used_bytes_ = used_bytes;
}

TimePoint PutLane::Service(TimePoint now) {
  FinishAnswered();
  EndStall();
  if (stream_ ? Stalled(now) : Away(now)) Refuse();
  LeaveLate(now);
  EndExpired(now);
  while (SendOne()) continue;
  const std::lock_guard lock(mutex_);
  return std::min(queue_.expires(), NextCheck(now));
}

void PutLane::Refuse() {
  bool begins = false;
  {
    const std::lock_guard lock(mutex_);
    begins = !std::exchange(refusing_, true);
    if (begins && stream_) stall_ends_at_ = batch_id_sent_;
  }
  // Before its parts end: they are sent again to the replicas that are left.
  if (begins) observer_->OnAway();
  EndExpired(kNever);
}

void PutLane::EndStall() {
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(stall_ended_, false)) return;
    refusing_ = false;
  }
  observer_->OnBack();
}

// Whether the server has answered no part for outage_wait, and a batch waits for nothing else.
bool PutLane::Stalled(TimePoint now) {
  const std::lock_guard lock(mutex_);
  return queue_.sent_count() > 0 && now >= waiting_since_ + outage_wait_ && HoldsUpABatch();
}

// Without a connection. A server that refuses connections does not run: it holds up no batch.
bool PutLane::Away(TimePoint now) {
  if (now >= detached_at_ + outage_wait_) return true;
  const std::lock_guard lock(mutex_);
  return refuses_connections_ && HoldsUpABatch();
}

bool PutLane::HoldsUpABatch() const {
  for (const PutPart* part = queue_.oldest(); part; part = part->newer) {
    if (!part->left && IsDispensable(*part)) return true;
  }
  return false;
}

// A server that only joins holds up no batch for longer than outage_wait.
void PutLane::LeaveLate(TimePoint now) {
  for (;;) {
    PutPart* part = nullptr;
    {
      const std::lock_guard lock(mutex_);
      part = queue_.oldest();
      while (part && LateAt(*part) <= now && (part->left || !MayBeLeft(*part))) part = part->newer;
      if (!part || LateAt(*part) > now) return;
      if (part->sent) {
        part->left = true;  // Answer() sets no results
      } else {
        queue_.Remove(part);
      }
    }
    part->sent ? LeavePart(part) : FinishPart(part, PutResult::kUnavailable);
  }
}

// When Service() checks again whether the server is away, or a part late. Other servers' answers
// wake no one here.
TimePoint PutLane::NextCheck(TimePoint now) const {
  if (refusing_) return kNever;
  const PutPart* part = queue_.oldest();
  while (part && part->left) part = part->newer;
  const TimePoint soon = now + outage_wait_ / 8;
  const TimePoint late = part ? std::max(LateAt(*part), soon) : kNever;
  if (!stream_)
    return std::min({detached_at_ + outage_wait_, late, refuses_connections_ ? soon : kNever});
  if (queue_.sent_count() == 0) return late;
  return std::min(late, std::max(waiting_since_ + outage_wait_, soon));
}

std::string PutLane::Detach(TimePoint lost_at) {
  if (!stream_) return "";
  std::string why = stream_->Shutdown();
  stream_.reset();
  detached_at_ = lost_at;
  PutPart* left = nullptr;  // linked by `newer`
  {
    const std::lock_guard lock(mutex_);
    stall_ends_at_ = 0;
    stall_ended_ = false;
    for (PutPart* part = queue_.oldest(); part;) {
      PutPart* const each = std::exchange(part, part->newer);
      if (!each->left) continue;
      queue_.Remove(each);
      each->newer = std::exchange(left, each);
    }
    queue_.Rewind();
  }
  while (left) FinishPart(std::exchange(left, left->newer));
  return why;
}

// Sends the oldest unsent part if the stream is free. Only this thread removes unanswered parts, so
// the part stays valid while its message is filled without the lock.
bool PutLane::SendOne() {
  PutPart* part = nullptr;
  {
    const std::lock_guard lock(mutex_);
    part = queue_.oldest_unsent();
    if (!stream_ || !part || queue_.sent_count() >= kPartsInFlightMax) return false;
  }
  v1::PutRequest* const request = stream_->BeginWrite();
  if (!request) return false;
  request->Clear();
  request->set_batch_id(part->batch_id);
  request->set_volume_id(volume_.id);
  request->set_epoch(volume_.epoch);
  for (std::size_t i = 0; i < part->count; ++i) AppendObject(part->ObjectAt(i), request);
  {
    const std::lock_guard lock(mutex_);
    if (queue_.sent_count() == 0) waiting_since_ = Clock::now();
    batch_id_sent_ = part->batch_id;
    queue_.MarkSent();
  }
  stream_->Send();
  return true;
}

void PutLane::OnAnswer(const v1::PutResponse& answer) {
  Answer(answer);
  observer_->OnLaneWork();
}

// Stores the results in their part; the session's thread delivers them.
void PutLane::Answer(const v1::PutResponse& answer) {
  const bool accepted = answer.status() == v1::CALL_STATUS_OK;
  if (accepted) NoteSpace(answer.capacity_bytes(), answer.used_bytes());
  const std::lock_guard lock(mutex_);
  waiting_since_ = Clock::now();
  if (stall_ends_at_ != 0 && answer.batch_id() >= stall_ends_at_) {
    stall_ends_at_ = 0;
    stall_ended_ = true;
  }
  PutPart* part = queue_.oldest();
  while (part && part->sent && part->batch_id != answer.batch_id()) part = part->newer;
  // None: the answer is late, or its id is invalid.
  if (!part || !part->sent) return;
  queue_.Remove(part);
  part->newer = std::exchange(answered_, part);
  if (part->left) return;
  if (!accepted || static_cast<std::size_t>(answer.results_size()) != part->count) {
    const bool later = answer.status() == v1::CALL_STATUS_RETRY_AFTER;
    part->results.fill(later ? PutResult::kUnavailable : PutResult::kRejected);
    return;
  }
  bool full = false;
  for (std::size_t i = 0; i < part->count; ++i) {
    part->results[i] = PutResultOf(answer.results(static_cast<int>(i)));
    full |= part->results[i] == PutResult::kServerFull;
  }
  full_until_ = full ? (Clock::now() + full_wait_).time_since_epoch().count() : Clock::rep{0};
}

void PutLane::EndExpired(TimePoint now) {
  for (;;) {
    PutPart* part = nullptr;
    {
      const std::lock_guard lock(mutex_);
      part = queue_.TakeExpired(now);
    }
    if (!part) return;
    FinishPart(part, PutResult::kUnavailable);
  }
}

void PutLane::FinishAnswered() {
  PutPart* part = nullptr;
  {
    const std::lock_guard lock(mutex_);
    part = std::exchange(answered_, nullptr);
  }
  while (part) FinishPart(std::exchange(part, part->newer));
}

}  // namespace farswap::remote
