#include "remote/heartbeat_lane.h"

#include "base/boot_clock.h"
#include "base/check.h"
#include "remote/put_lane.h"

namespace farswap::remote {

void HeartbeatLane::Open(v1::PageStore::Stub* stub, rpc::CompletionThreads* completions,
                         OpenedVolume volume) {
  FARSWAP_CHECK(!stream_);
  volume_ = volume;
  due_ = {};
  answered_ = sequence_;
  stream_ = std::make_unique<SessionStream>(this, observer_, completions);
  stream_->Start(stub->PrepareAsyncSession(stream_->context(), completions->queue()));
}

TimePoint HeartbeatLane::Service(TimePoint now) {
  if (!stream_) return kNever;
  if (now < due_) return due_;
  if (sequence_ - answered_ >= kUnansweredMax) {
    observer_->OnLaneBroken();
    return kNever;
  }
  v1::SessionRequest* const request = stream_->BeginWrite();
  if (!request) return kNever;  // until OnWritable()
  request->set_sequence(++sequence_);
  request->set_volume_id(volume_.id);
  request->set_epoch(volume_.epoch);
  request->set_boot_ms(BootMilliseconds());
  stream_->Send();
  due_ = now + HeartbeatOf(volume_.owner_lease);
  return due_;
}

std::string HeartbeatLane::Detach() {
  if (!stream_) return "";
  const bool silent = sequence_ - answered_ >= kUnansweredMax;
  std::string why = stream_->Shutdown();
  stream_.reset();
  if (silent) return std::to_string(kUnansweredMax) + " heartbeats without an answer";
  return why;
}

void HeartbeatLane::OnAnswer(const v1::SessionResponse& answer) {
  if (answer.status() != v1::CALL_STATUS_OK) return;
  answered_ = answer.sequence();
  stores_->NoteSpace(answer.capacity_bytes(), answer.used_bytes());
  stores_->NoteState(answer.state());
}

}  // namespace farswap::remote
