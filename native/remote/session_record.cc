#include "remote/session_record.h"

#include <chrono>
#include <utility>

#include "farswap/v1/page_store.pb.h"

namespace farswap::remote {

const char* NameOf(SessionState state) {
  switch (state) {
    case SessionState::kConnecting:
      return "connecting";
    case SessionState::kActive:
      return "active";
    case SessionState::kAway:
      return "away";
    case SessionState::kWaiting:
      return "waiting";
    case SessionState::kAlreadyOpen:
      return "already_open";
    case SessionState::kFenced:
      return "fenced";
    case SessionState::kDuplicate:
      return "duplicate";
    case SessionState::kClone:
      return "clone";
    case SessionState::kRemoved:
      return "removed";
    case SessionState::kForgotten:
      return "forgotten";
  }
  return "";
}

SessionStatus SessionRecord::Status(TimePoint now) const {
  const std::lock_guard lock(mutex_);
  const auto away = std::chrono::duration_cast<std::chrono::milliseconds>(now - disconnected_at_);
  const bool connected = state_ == SessionState::kActive;
  return {
      .state = state_,
      .member = last_member_,
      .capacity_bytes = 0,
      .used_bytes = 0,
      .at_quota = false,
      .epoch = epoch_,
      .reconnects = connections_ > 0 ? connections_ - 1 : 0,
      .last_error = last_error_,
      .disconnected_ms = connected ? 0 : static_cast<std::uint64_t>(away.count()),
      .uuid = uuid_,
      .owner_name = owner_name_,
      .owner_address = owner_address_,
      .unclean_restarts = unclean_restarts_,
      .hedged_fetches = 0,
      .fetch_p99_us = 0,
  };
}

SessionState SessionRecord::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

bool SessionRecord::ever_connected() const {
  const std::lock_guard lock(mutex_);
  return connections_ > 0;
}

SessionState SessionRecord::Disconnected() const {
  const std::lock_guard lock(mutex_);
  if (forgotten_) return SessionState::kForgotten;
  return last_member_ != kNoMember ? SessionState::kAway : SessionState::kConnecting;
}

void SessionRecord::SetState(SessionState state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
}

void SessionRecord::NoteUuid(const ServerId& uuid) {
  const std::lock_guard lock(mutex_);
  uuid_ = Hex(uuid);
}

void SessionRecord::NoteOwner(const v1::OpenVolumeResponse& response) {
  const std::lock_guard lock(mutex_);
  owner_name_ = response.owner().host_name();
  owner_address_ = response.owner().address();
}

void SessionRecord::NoteOpened(MemberIndex member, std::uint64_t epoch, bool unclean) {
  const std::lock_guard lock(mutex_);
  if (unclean) ++unclean_restarts_;
  epoch_ = epoch;
  ++connections_;
  forgotten_ = false;
  last_member_ = member;
  state_ = SessionState::kActive;
}

void SessionRecord::NoteForgotten() {
  const std::lock_guard lock(mutex_);
  forgotten_ = true;
  state_ = SessionState::kForgotten;
  last_member_ = kNoMember;
  connections_ = 0;
}

void SessionRecord::NoteListed(TimePoint now) {
  const std::lock_guard lock(mutex_);
  forgotten_ = false;
  state_ = SessionState::kConnecting;
  uuid_.clear();
  owner_name_.clear();
  owner_address_.clear();
  unclean_restarts_ = 0;
  last_error_.clear();
  disconnected_at_ = now;
}

void SessionRecord::NoteDetached(TimePoint now) {
  const std::lock_guard lock(mutex_);
  disconnected_at_ = now;
}

void SessionRecord::NoteDisconnected(const std::string& why) {
  const std::lock_guard lock(mutex_);
  last_error_ = why;
  if (state_ == SessionState::kActive) state_ = SessionState::kAway;
}

std::string SessionRecord::Refuse(SessionState state, const std::string& why) {
  const std::lock_guard lock(mutex_);
  state_ = state;
  last_error_ = why;
  return why;
}

std::string SessionRecord::GiveUp(bool named) {
  const std::lock_guard lock(mutex_);
  state_ = SessionState::kAlreadyOpen;
  last_error_ = named ? "already open: " + owner_name_ + " (" + owner_address_ + ") has the volume"
                      : "not opened: another memory server names an owner";
  return last_error_;
}

}  // namespace farswap::remote
