#include "remote/heartbeat_lane.h"

#include "base/boot_clock.h"
#include "base/check.h"
#include "remote/open_volume.h"
#include "remote/put_lane.h"

namespace farswap::remote {

void HeartbeatLane::Open(v1::PageStore::Stub* stub, rpc::CompletionThreads* completions,
                         OpenedVolume volume) {
  FARSWAP_CHECK(!stream_);
  volume_ = volume;
  heard_at_ = due_ = Clock::now();
  answered_ = sequence_;
  stream_ = std::make_unique<SessionStream>(this, observer_, completions);
  stream_->Start(stub->PrepareAsyncSession(stream_->context(), completions->queue()));
}

TimePoint HeartbeatLane::Service(TimePoint now) {
  if (!stream_) return kNever;
  if (now < due_) return due_;
  v1::SessionRequest* request = nullptr;
  if (sequence_ - answered_ < UnansweredMax()) request = stream_->BeginWrite();
  if (!request) {
    // For so long the stream may not be up, or a write not end.
    const TimePoint give_up_at = due_ + Interval() * UnansweredMax();
    const bool unanswered = sequence_ - answered_ >= UnansweredMax();
    if (!unanswered && now < give_up_at) return give_up_at;
    observer_->OnLaneBroken();
    return kNever;
  }
  request->set_sequence(++sequence_);
  request->set_volume_id(volume_.id);
  request->set_epoch(volume_.epoch);
  request->set_boot_ms(BootMilliseconds());
  const PlacementInfo placement = contents_.placement();
  v1::VolumePlacement* const sent = request->mutable_placement();
  sent->set_replicas_wanted(static_cast<std::uint32_t>(placement.replicas));
  sent->set_replication_debt_shards(placement.debt);
  sent->set_lost_shards(placement.lost);
  sent->set_replica_copies(static_cast<std::uint32_t>(placement.copies));
  sent->set_replicas_here(placement.here);
  sent->set_fetch_p99_us(static_cast<std::uint64_t>(contents_.fetch_p99().count()));
  sent->clear_away();  // the stream reuses its request
  for (const placement::AwayMember& member : placement.away) {
    const auto session = members_->SessionOf(member.member);
    if (!session) continue;
    v1::AwayServer* const away = sent->add_away();
    const ServerId uuid = members_->UuidOf(member.member);
    away->set_uuid(uuid.data(), uuid.size());
    away->set_address(members_->AddressOf(*session));
    away->set_shards(member.shards);
    away->set_last_shards(member.last_shards);
  }
  request->clear_compared();
  for (const DamageReports::Compared& compared : contents_.compared()) {
    v1::ComparedShards* const shards = request->add_compared();
    shards->set_report(compared.number);
    shards->set_copied_objects(compared.copied_objects);
  }
  stream_->Send();
  due_ = now + Interval();
  return due_;
}

std::optional<TimePoint> HeartbeatLane::SilentSince() const {
  const TimePoint heard_at = heard_at_;
  const bool silent = stream_ && Clock::now() - heard_at >= Interval() * UnansweredMax();
  return silent ? std::optional(heard_at) : std::nullopt;
}

std::vector<ServerId> HeartbeatLane::TakeRemoved() {
  const std::lock_guard lock(removed_mutex_);
  return std::exchange(removed_, {});
}

std::string HeartbeatLane::Detach() {
  if (!stream_) return "";
  const bool silent = SilentSince().has_value();
  std::string why = stream_->Shutdown();
  stream_.reset();
  if (silent) return std::to_string(UnansweredMax()) + " heartbeats without an answer";
  return why;
}

void HeartbeatLane::OnAnswer(const v1::SessionResponse& answer) {
  if (answer.status() != v1::CALL_STATUS_OK) return;
  answered_ = answer.sequence();
  heard_at_ = Clock::now();
  stores_->NoteSpace(answer.capacity_bytes(), answer.used_bytes());
  stores_->NoteState(answer.state());
  std::vector<DamageReports::Report> reports;
  for (const v1::DamagedShards& damaged : answer.damaged()) {
    reports.push_back({damaged.report(), damaged.first(), damaged.last()});
  }
  contents_.on_damage(reports);
  if (answer.removed_servers().empty()) return;
  {
    const std::lock_guard lock(removed_mutex_);
    removed_.clear();
    for (const std::string& bytes : answer.removed_servers()) {
      if (const auto uuid = IdOf(bytes)) removed_.push_back(*uuid);
    }
  }
  observer_->OnLaneWork();
}

}  // namespace farswap::remote
