#include "remote/opening_gate.h"

#include <algorithm>

namespace farswap::remote {

OpeningGate::OpeningGate(std::chrono::milliseconds answer_wait, bool open)
    : answer_wait_(answer_wait), decision_(open ? Decision::kOpen : Decision::kNone) {}

void OpeningGate::AddSession() {
  const std::lock_guard lock(mutex_);
  last_.push_back(Last::kNothing);
}

OpeningGate::Decision OpeningGate::decision() const {
  const std::lock_guard lock(mutex_);
  return decision_;
}

OpeningGate::Decision OpeningGate::NoteAnswer(std::size_t session, bool owned,
                                              std::chrono::milliseconds lease, TimePoint now) {
  const std::lock_guard lock(mutex_);
  last_[session] = owned ? Last::kOwned : Last::kFree;
  if (answers_until_ == kNever) answers_until_ = now + answer_wait_;
  if (decision_ == Decision::kNone) Decide(lease, now);
  return decision_;
}

void OpeningGate::NoteSilent(std::size_t session) {
  const std::lock_guard lock(mutex_);
  last_[session] = Last::kNothing;
}

TimePoint OpeningGate::answers_until() const {
  const std::lock_guard lock(mutex_);
  return answers_until_;
}

void OpeningGate::Decide(std::chrono::milliseconds lease, TimePoint now) {
  const auto said = [this](Last what) { return std::count(last_.begin(), last_.end(), what); };
  if (said(Last::kOwned) > 0) {
    if (owned_since_ == kNever) owned_since_ = now;
    if (now - owned_since_ >= kLeasesToWait * lease) decision_ = Decision::kRefused;
  } else if (said(Last::kNothing) == 0 || now >= answers_until_) {
    decision_ = Decision::kOpen;
  }
}

}  // namespace farswap::remote
