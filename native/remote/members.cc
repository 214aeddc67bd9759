#include "remote/members.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/step.h"

namespace farswap::remote {

using tier::MemberRecord;

namespace {

constexpr std::size_t kClonesMax = 16;  // remembered of one store

}  // namespace

std::string Hex(const ServerId& id) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : id) {
    text += kDigits[std::to_integer<unsigned>(byte) >> 4];
    text += kDigits[std::to_integer<unsigned>(byte) & 15];
  }
  return text;
}

Members::Members(std::chrono::milliseconds move_wait, std::string spread,
                 std::span<MemberRecord> records)
    : move_wait_(move_wait), records_(records), spread_(std::move(spread)) {
  for (auto& session : session_of_) session = kNoSession;
}

Result<std::vector<MemberIndex>> Members::Recover(const std::set<MemberIndex>& named,
                                                  TimePoint now) {
  using enum MemberRecord::Standing;
  const std::lock_guard lock(mutex_);
  for (const MemberRecord& record : records_) {
    const auto standing = record.standing.load(std::memory_order_acquire);
    if (standing == kFree) break;
    const auto member = static_cast<MemberIndex>(members_.size());
    AddMember(record.uuid);
    if (standing == kRemoved) removed_.insert(record.uuid);
    if (standing == kRemoved || standing == kGone) continue;
    if (!named.contains(member)) {
      NoteStanding(member, kGone);
      continue;
    }
    session_of_[member] = static_cast<std::uint16_t>(sessions_.size());
    sessions_.push_back({.address = record.addresses[standing == kAtSecond].data(),
                         .listed = false,
                         .member = member,
                         .silent_since = now,
                         .recovered = true});
  }
  std::vector<MemberIndex> gone;
  for (const MemberIndex member : named) {
    if (member >= members_.size()) {
      return Error{"the kept memory is damaged: a shard is on a server that is not in it"};
    }
    if (session_of_[member] == kNoSession) gone.push_back(member);
  }
  return gone;
}

std::vector<std::size_t> Members::List(std::span<const std::string> addresses,
                                       std::size_t sessions_max) {
  const std::lock_guard lock(mutex_);
  std::vector<std::size_t> changed;
  std::set<std::string> unknown(addresses.begin(), addresses.end());
  for (std::size_t number = 0; number < sessions_.size(); ++number) {
    Session& session = sessions_[number];
    const bool was_idle = session.idle();
    session.listed = unknown.erase(session.address) > 0;
    const bool recovered = std::exchange(session.recovered, false);
    if (recovered || (was_idle && session.listed)) changed.push_back(number);
  }
  for (const std::string& address : addresses) {
    if (unknown.erase(address) == 0 || address.size() > MemberRecord::kAddressBytesMax) continue;
    auto session = std::ranges::find_if(sessions_, &Session::idle);
    if (session == sessions_.end()) {
      if (sessions_.size() == sessions_max) break;
      session = sessions_.emplace(sessions_.end());
    }
    *session = {.address = address};
    changed.push_back(static_cast<std::size_t>(session - sessions_.begin()));
  }
  return changed;
}

bool Members::IsIdle(std::size_t session) const {
  const std::lock_guard lock(mutex_);
  return sessions_[session].idle();
}

Members::Answer Members::Claim(std::size_t session, const std::string& address,
                               const ServerId& uuid, const ServerId& run, TimePoint now) {
  const std::lock_guard lock(mutex_);
  if (sessions_[session].address != address) return {.standing = Standing::kStale};
  if (removed_.contains(uuid)) return {.standing = Standing::kRemoved};
  const MemberIndex known = Find(uuid);
  if (known == kNoMember) {
    if (members_.size() == kMembersMax) return {.standing = Standing::kTooMany};
    AddMember(uuid);
    return Bind(session, static_cast<MemberIndex>(members_.size() - 1), run);
  }
  const std::uint16_t holder = session_of_[known];
  if (holder == kNoSession || holder == session) return Bind(session, known, run);
  return Contest(session, known, run, now);
}

void Members::NoteSilent(std::size_t session, TimePoint now) {
  const std::lock_guard lock(mutex_);
  if (!std::exchange(sessions_[session].answering, false)) return;
  sessions_[session].silent_since = now;
}

std::optional<std::size_t> Members::Remove(const ServerId& uuid, bool in_use) {
  const std::lock_guard lock(mutex_);
  if (removed_.contains(uuid)) return std::nullopt;
  const MemberIndex member = Find(uuid);
  const std::uint16_t holder = member == kNoMember ? kNoSession : session_of_[member].load();
  if (holder != kNoSession) {
    Session& session = sessions_[holder];
    bool& retired = members_[member].retired;
    retired |= session.answering;
    if (session.answering || (retired && in_use)) return std::nullopt;
    session.member = kNoMember;
    session_of_[member] = kNoSession;
  }
  if (member != kNoMember) NoteStanding(member, MemberRecord::Standing::kRemoved);
  removed_.insert(uuid);
  return holder == kNoSession ? std::nullopt : std::optional<std::size_t>(holder);
}

bool Members::IsRetired(MemberIndex member) const {
  const std::lock_guard lock(mutex_);
  return members_[member].retired;
}

MemberIndex Members::MemberOf(const ServerId& uuid) const {
  const std::lock_guard lock(mutex_);
  return Find(uuid);
}

std::string Members::AddressOf(std::size_t session) const {
  const std::lock_guard lock(mutex_);
  return sessions_[session].address;
}

MemberIndex Members::BoundTo(std::size_t session) const {
  const std::lock_guard lock(mutex_);
  return sessions_[session].member;
}

ServerId Members::UuidOf(MemberIndex member) const {
  const std::lock_guard lock(mutex_);
  return members_[member].uuid;
}

void Members::SpreadBy(const std::string& label) {
  const std::lock_guard lock(mutex_);
  spread_ = label;
  for (Member& member : members_) UpdateDomain(&member);
}

std::string Members::spread() const {
  const std::lock_guard lock(mutex_);
  return spread_;
}

void Members::NoteLabels(MemberIndex member, Labels labels) {
  const std::lock_guard lock(mutex_);
  members_[member].labels = std::move(labels);
  UpdateDomain(&members_[member]);
}

Labels Members::LabelsOf(MemberIndex member) const {
  const std::lock_guard lock(mutex_);
  return members_[member].labels;
}

std::string Members::DomainOf(MemberIndex member) const {
  const std::lock_guard lock(mutex_);
  return domains_[members_[member].domain];
}

std::uint32_t Members::DomainNumberOf(MemberIndex member) const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::uint32_t>(members_[member].domain);
}

void Members::UpdateDomain(Member* member) {
  const auto label = member->labels.find(spread_);
  const std::string name = label == member->labels.end() ? Hex(member->uuid) : label->second;
  const auto known = std::ranges::find(domains_, name);
  member->domain = static_cast<std::size_t>(known - domains_.begin());
  if (known == domains_.end()) domains_.push_back(name);
}

MemberIndex Members::Find(const ServerId& uuid) const {
  const auto found = std::find_if(members_.begin(), members_.end(),
                                  [&](const Member& member) { return member.uuid == uuid; });
  return found == members_.end() ? kNoMember : static_cast<MemberIndex>(found - members_.begin());
}

void Members::AddMember(const ServerId& uuid) {
  const std::size_t member = members_.size();
  members_.push_back({.uuid = uuid});
  UpdateDomain(&members_.back());
  if (member < records_.size()) records_[member].uuid = uuid;
}

// Before any shard names the member. A process may die meanwhile: the address that it was at last
// stays.
void Members::NoteAddress(MemberIndex member, const std::string& address) {
  using enum MemberRecord::Standing;
  if (member >= records_.size()) return;
  MemberRecord& record = records_[member];
  const auto next = record.standing == kAtFirst ? kAtSecond : kAtFirst;
  auto& bytes = record.addresses[next == kAtSecond];
  bytes.fill('\0');
  std::ranges::copy(address, bytes.begin());
  NoteStanding(member, next);
}

void Members::NoteStanding(MemberIndex member, MemberRecord::Standing standing) {
  if (member >= records_.size()) return;
  records_[member].standing.store(standing, std::memory_order_release);
  Reach(Step::kMemberNamed);
}

Members::Answer Members::Bind(std::size_t session, MemberIndex member, const ServerId& run) {
  Session& binder = sessions_[session];
  Answer answer{.standing = Standing::kAccepted, .member = member};
  if (binder.member != member) {
    answer.gone = std::exchange(binder.member, member);
    if (answer.gone != kNoMember) {
      NoteStanding(answer.gone, MemberRecord::Standing::kGone);
      session_of_[answer.gone] = kNoSession;
    }
    NoteAddress(member, binder.address);
    session_of_[member].store(static_cast<std::uint16_t>(session), std::memory_order_release);
  }
  binder.answering = true;
  members_[member].run = run;
  return answer;
}

// Another session has the member.
Members::Answer Members::Contest(std::size_t session, MemberIndex member, const ServerId& run,
                                 TimePoint now) {
  Member& store = members_[member];
  const std::size_t other = session_of_[member];
  Session& holder = sessions_[other];
  Answer answer;
  answer.other = other;
  answer.other_address = holder.address;
  const bool same_run = run == store.run;
  const bool known_clone =
      std::find(store.clones.begin(), store.clones.end(), run) != store.clones.end();
  if (holder.answering) {
    answer.standing = same_run ? Standing::kDuplicate : Standing::kClone;
    if (!same_run && !known_clone && store.clones.size() < kClonesMax) store.clones.push_back(run);
  } else if (known_clone) {
    answer.standing = Standing::kClone;
  } else if (!same_run && now - holder.silent_since < move_wait_) {
    answer.standing = Standing::kSilent;
  } else {
    answer.standing = Standing::kMoved;
    std::swap(holder.address, sessions_[session].address);
    std::swap(holder.listed, sessions_[session].listed);
    NoteAddress(member, holder.address);
    const MemberIndex former = sessions_[session].member;
    if (former != kNoMember) NoteAddress(former, sessions_[session].address);
  }
  return answer;
}

std::string WhyNotUsed(const Members::Answer& answer, const std::string& address,
                       const ServerId& uuid) {
  using Standing = Members::Standing;
  const std::string named = " (uuid " + Hex(uuid) + ")";
  const std::string same = address + " has the store of " + answer.other_address + named;
  switch (answer.standing) {
    case Standing::kAccepted:
      break;
    case Standing::kDuplicate:
      return same + ": it is one server by two names";
    case Standing::kClone:
      return same + ", which also answers: one is a copy of the other";
    case Standing::kSilent:
      return same + ", which stopped answering a moment ago";
    case Standing::kMoved:
      return same + ", which no longer answers there";
    case Standing::kStale:
      return "the server has another address now";
    case Standing::kRemoved:
      return address + " has a store that an operator removed" + named;
    case Standing::kTooMany:
      return "more than " + std::to_string(Members::kMembersMax) + " stores were seen";
  }
  return "";
}

}  // namespace farswap::remote
