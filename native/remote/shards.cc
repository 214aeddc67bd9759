#include "remote/shards.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/thread.h"

namespace farswap::remote {

using placement::Action;
using placement::ActionResult;
using placement::ReplicaSet;
using placement::ReplicaState;
using std::chrono::milliseconds;

namespace {

constexpr std::size_t kFanout = 32;       // members that a host uses at most
constexpr std::size_t kCopysetWidth = 4;  // copysets that a member leads
constexpr std::size_t kCopiesMax = 2;     // at a time
constexpr milliseconds kReportEvery{1000};
constexpr milliseconds kSilentMax{10000};  // of a server during a call

// Not jobs of the planner.
constexpr std::uint64_t kRepair = UINT64_MAX;
constexpr std::uint64_t kComparison = UINT64_MAX - 1;
constexpr std::uint64_t kCheck = UINT64_MAX - 2;
constexpr std::uint64_t kList = UINT64_MAX - 3;

}  // namespace

Shards::Shards(const ShardsConfig& config, const ShardServers* servers)
    : shards_((config.slots + tier::kShardSlots - 1) / tier::kShardSlots),
      replicas_(config.replicas),
      host_(std::hash<std::string>{}(config.host_id)),
      servers_(*servers),
      damage_(shards_),
      planner_({.shards = shards_,
                .replicas = config.replicas,
                .jobs_max = kCopiesMax,
                .repair_after = config.repair_after,
                .rebalance_every = config.rebalance_every,
                .shard_bytes = tier::kShardSlots * tier::kPageBytes,
                .seed = config.seed},
               config.words),
      copier_(kCopiesMax, this) {}

Shards::~Shards() { Stop(); }

void Shards::Recover() {
  const std::lock_guard lock(mutex_);
  for (const MemberIndex member : planner_.Named()) peers_.push_back(servers_.PeerOf(member));
  planner_.Recover([this](MemberIndex member) { return servers_.PeerOf(member).domain; });
  UpdateCopysets();
  recovered_ = true;
}

void Shards::Start() {
  copier_.Start();
  thread_ = StartThread("fs-remote-plan", [this] { Run(); });
}

void Shards::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  copier_.Stop();
}

// --- From the data path -------------------------------------------------------------------------

ReplicaSet Shards::Place(tier::ObjectKey key) {
  const placement::ShardIndex shard = ShardOf(key);
  if (shard >= shards_) return {};
  const std::lock_guard lock(mutex_);
  TakeReports();
  const ReplicaSet set = planner_.Place(shard);
  Wake();
  return set;
}

// A replica that lacks an object is current no longer, unless it is the last one.
void Shards::OnPartDone(const PutPart& part) {
  const auto missed = [](tier::PutResult result) {
    return result != tier::PutResult::kAcked && result != tier::PutResult::kSuperseded;
  };
  const auto results = std::span(part.results).first(part.count);
  if (std::ranges::none_of(results, missed)) return;
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < part.count; ++i) {
    if (missed(results[i]))
      planner_.ReplicaMissed(ShardOf(part.ObjectAt(i).key), part.member, Now());
  }
  Wake();
}

void Shards::OnPutEnded(std::uint64_t era) {
  if (!eras_.End(era)) return;
  const std::lock_guard lock(mutex_);
  if (!waiting_.empty()) Wake();
}

void Shards::OnWorkDone(const FinishedWork& work) {
  const std::lock_guard lock(mutex_);
  finished_.push_back(work);
  Wake();
}

bool Shards::MayDrop(const Action& action) const {
  return !planner_.SetOf(action.shard).StateOf(action.member);
}

// --- From operators -----------------------------------------------------------------------------

void Shards::CompareWith(tier::StoredObjects* objects) {
  const std::lock_guard lock(mutex_);
  objects_ = objects;
  Wake();
}

void Shards::SetReplicas(std::size_t replicas) {
  const std::lock_guard lock(mutex_);
  replicas_ = replicas;
  planner_.SetReplicas(replicas);
  UpdateCopysets();
  Wake();
}

void Shards::OnSpreadChanged() {
  const std::lock_guard lock(mutex_);
  for (placement::Peer& peer : peers_) {
    placement::Member member = planner_.Reported(peer.member);
    member.domain = peer.domain = servers_.PeerOf(peer.member).domain;
    planner_.Report(peer.member, member);
  }
  UpdateCopysets();
  Wake();
}

std::string Shards::Move(placement::ShardIndex shard, MemberIndex from, MemberIndex to) {
  const std::lock_guard lock(mutex_);
  TakeReports();
  std::string problem = planner_.Move(shard, from, to);
  Wake();
  return problem;
}

// --- From the sessions --------------------------------------------------------------------------

void Shards::OnOpened(MemberIndex member, bool intact) {
  const std::lock_guard lock(mutex_);
  planner_.MemberBack(member, intact);
  if (recovered_ && listed_.insert(member).second) unlisted_.push_back(member);
  for (std::size_t i = 0; !intact && i < shards_; ++i) {
    const auto shard = static_cast<placement::ShardIndex>(i);
    if (IsOnlyCurrent({shard, member})) checks_.push_back({shard, member});
  }
  TakeReports();
  Wake();
}

void Shards::OnAway(MemberIndex member) {
  const std::lock_guard lock(mutex_);
  planner_.MemberAway(member, Now());
  Wake();
}

std::uint32_t Shards::OnStoreGone(MemberIndex member) {
  const std::lock_guard lock(mutex_);
  const std::uint32_t lost = planner_.lost();
  planner_.MemberGone(member);
  damage_.Note(member, {});
  std::erase_if(peers_, [&](const placement::Peer& peer) { return peer.member == member; });
  UpdateCopysets();
  Wake();
  return planner_.lost() - lost;
}

void Shards::OnDamage(MemberIndex member, const std::vector<DamageReports::Report>& reports) {
  if (member == kNoMember || !damage_.Note(member, reports)) return;
  const std::lock_guard lock(mutex_);
  Wake();
}

// With mutex_ held, as the following.
bool Shards::IsOnlyCurrent(const Check& check) const {
  const ReplicaSet set = planner_.SetOf(check.shard);
  return set.Count(ReplicaState::kCurrent) == 1 &&
         set.StateOf(check.member) == ReplicaState::kCurrent;
}

void Shards::TakeReports() {
  bool changed = false;
  for (const ShardServers::Report& report : servers_.Reports()) {
    planner_.Report(report.index, report.member);
    const bool leaving = report.member.leaving;
    changed |= leaving ? leaving_.insert(report.index).second : leaving_.erase(report.index) > 0;
    auto peer = std::ranges::find(peers_, report.index, &placement::Peer::member);
    if (peer != peers_.end() && peer->domain == report.member.domain) continue;
    if (peer == peers_.end()) peer = peers_.insert(peer, placement::Peer{});
    *peer = {report.index, report.member.id, report.member.domain};
    changed = true;
  }
  if (changed) UpdateCopysets();
}

void Shards::UpdateCopysets() {
  std::set<std::uint32_t> domains;
  for (const placement::Peer& peer : peers_) domains.insert(peer.domain);
  domains_ = domains.size();
  std::vector<placement::Peer> staying;
  std::ranges::copy_if(peers_, std::back_inserter(staying), [this](const placement::Peer& peer) {
    return !leaving_.contains(peer.member);
  });
  const auto all = placement::MakeCopysets(staying, replicas_, replicas_ == 1 ? 1 : kCopysetWidth);
  planner_.UseCopysets(placement::CopysetsOf(host_, all, kFanout));
}

PlacementInfo Shards::status(MemberIndex member) const {
  const std::lock_guard lock(mutex_);
  return {.replicas = replicas_,
          .domains = domains_,
          .debt = planner_.debt(),
          .lost = planner_.lost(),
          .crowded = planner_.crowded(),
          .copies = planner_.jobs(),
          .here = planner_.ReplicasOn(member),
          .repaired_objects = repaired_objects_,
          .failed_repairs = failed_repairs_,
          .missing_pages = missing_pages_,
          .away = away_};
}

// --- The planner's thread -----------------------------------------------------------------------

void Shards::Wake() {
  wake_ = true;
  changed_.notify_all();
}

void Shards::Run() {
  std::vector<Action> actions;
  std::unique_lock lock(mutex_);
  // A recovered map may have replicas to be compared at once.
  changed_.wait(lock, [this] { return stopping_ || objects_; });
  while (!stopping_) {
    wake_ = false;
    const placement::Time now = Now();
    TakeReports();
    EndWork(now);
    EndSettled(now);
    planner_.Tick(now, &actions);
    if (now >= away_at_) {
      away_ = planner_.Away();
      away_at_ = now + kReportEvery;
    }
    for (const Action& action : actions) Begin(action);
    actions.clear();
    BeginRepair(now);
    BeginComparison(now);
    BeginCheck(now);
    BeginList();
    copier_.CancelSilent(Clock::now() - kSilentMax);
    EndSettled(now);
    const placement::Time pause =
        std::clamp(planner_.NextTick(now) - now, milliseconds(1), kReportEvery);
    changed_.wait_for(lock, pause, [this] { return stopping_ || wake_; });
  }
}

// Whether the action may begin: all Puts that went to an earlier set have ended, and no other work
// on the replica is under way. A copy must not meet a drop; a drop must find what those Puts left.
bool Shards::Settled(const Waiting& waiting) const {
  return eras_.Reached(waiting.era) && std::ranges::none_of(working_, [&](const Action& work) {
           return work.shard == waiting.action.shard && work.member == waiting.action.member;
         });
}

void Shards::Begin(const Action& action) {
  if (action.kind == Action::Kind::kSettle || action.kind == Action::Kind::kDrop) {
    waiting_.push_back({action, eras_.Turn()});
  } else {
    BeginWork(action);
  }
}

void Shards::EndSettled(placement::Time now) {
  for (std::size_t i = 0; i < waiting_.size();) {
    if (!Settled(waiting_[i])) {
      ++i;
      continue;
    }
    const Action action = waiting_[i].action;
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    wake_ = true;
    if (action.kind == Action::Kind::kSettle) {
      planner_.Finished(action, ActionResult::kDone, now);
    } else if (MayDrop(action)) {
      BeginWork(action);
    }
  }
}

void Shards::BeginWork(const Action& action, std::vector<std::uint64_t> repairs, bool list) {
  ShardWork work{.action = action,
                 .member = {},
                 .sources = {},
                 .objects = objects_,
                 .repairs = std::move(repairs),
                 .list = list};
  for (const placement::Replica& replica : planner_.SetOf(action.shard).All()) {
    const bool usable = replica.state == ReplicaState::kCurrent && replica.member != action.member;
    const bool other = action.kind == Action::Kind::kCopy && replica.member != action.source;
    const auto source = usable && !other ? servers_.WhereIs(replica.member) : std::nullopt;
    if (source) work.sources.push_back(*source);
  }
  const auto member = servers_.WhereIs(action.member);
  if (!member) {
    finished_.push_back({.action = action, .result = ActionResult::kFailed});
    wake_ = true;
    return;
  }
  work.member = *member;
  working_.push_back(action);
  copier_.Add(std::move(work));
}

void Shards::EndWork(placement::Time now) {
  for (const FinishedWork& work : std::exchange(finished_, {})) {
    const auto ended = std::ranges::find_if(working_, [&](const Action& action) {
      return action.kind == work.action.kind && action.shard == work.action.shard &&
             action.member == work.action.member && action.job == work.action.job;
    });
    if (ended != working_.end()) working_.erase(ended);
    missing_pages_ += work.missing_pages;
    if (work.action.job == kRepair) {
      EndRepair(work, now);
      continue;
    }
    if (work.action.job == kComparison) {
      EndComparison(work, now);
      continue;
    }
    if (work.action.job == kCheck) {
      check_begun_ = false;
      if (work.result == ActionResult::kDone) {
        checks_.pop_front();
      } else {
        check_at_ = now + kReportEvery;
      }
      continue;
    }
    if (work.action.job == kList) {
      list_begun_ = false;
      unlisted_.pop_front();
      if (work.result == ActionResult::kDone) {
        planner_.OnListed(work.action.member, work.shards);
      } else {
        listed_.erase(work.action.member);  // until it is back
      }
      continue;
    }
    planner_.Finished(work.action, work.result, now, work.retry_after);
  }
}

// Repairs objects of a replica that is still current, from one that is.
void Shards::BeginRepair(placement::Time now) {
  while (now >= repair_at_) {
    const auto batch = repairs_.Begin();
    if (!batch) return;
    const ReplicaSet set = planner_.SetOf(batch->shard);
    const auto usable = [&](const placement::Replica& replica) {
      return replica.state == ReplicaState::kCurrent && replica.member != batch->member &&
             (replica.member == batch->source || batch->source == kNoMember);
    };
    const auto replicas = set.All();
    const auto source = std::ranges::find_if(replicas, usable);
    if (set.StateOf(batch->member) != ReplicaState::kCurrent || source == replicas.end()) {
      repairs_.End(/*again=*/false);
      continue;
    }
    repairing_ = batch->keys.size();
    BeginWork({.kind = Action::Kind::kCopy,
               .shard = batch->shard,
               .member = batch->member,
               .source = source->member,
               .generation = set.generation(),
               .job = kRepair},
              batch->keys);
    return;
  }
}

void Shards::EndRepair(const FinishedWork& work, placement::Time now) {
  repaired_objects_ += work.copied_objects;
  if (work.result == ActionResult::kFailed) failed_repairs_ += repairing_ - work.copied_objects;
  if (work.result != ActionResult::kDone)
    repair_at_ = now + std::max(work.retry_after, kReportEvery);
  repairs_.End(/*again=*/work.result == ActionResult::kLater);
}

void Shards::BeginComparison(placement::Time now) {
  while (now >= compare_at_) {
    const auto comparison = damage_.Begin();
    if (!comparison) return;
    bool again = false;
    if (BeginComparisonOf(*comparison, &again)) return;
    damage_.End(again, 0);
    if (again) compare_at_ = now + kReportEvery;
  }
}

// Compares a current replica with another one, or an only one with the slot table alone. Nothing to
// compare: the server has no replica of the shard, or a stale one that lacks something, which is
// compared before it is current again.
bool Shards::BeginComparisonOf(const DamageReports::Comparison& comparison, bool* again) {
  const ReplicaSet set = planner_.SetOf(comparison.shard);
  const auto state = set.StateOf(comparison.member);
  *again = state == ReplicaState::kJoining || (state == ReplicaState::kStale && set.untouched());
  if (state != ReplicaState::kCurrent) return false;
  const auto replicas = set.All();
  const bool comparable = std::ranges::any_of(replicas, [&](const placement::Replica& replica) {
    return replica.state == ReplicaState::kCurrent && replica.member != comparison.member &&
           servers_.WhereIs(replica.member);
  });
  const bool only = replicas_ == 1 && set.Count(ReplicaState::kJoining) == 0;
  *again = !comparable && !only;
  if (*again) return false;
  BeginWork({.kind = Action::Kind::kCompare,
             .shard = comparison.shard,
             .member = comparison.member,
             .source = kNoMember,
             .generation = set.generation(),
             .job = kComparison});
  return true;
}

void Shards::EndComparison(const FinishedWork& work, placement::Time now) {
  const bool again = work.result != ActionResult::kDone;
  if (again) compare_at_ = now + std::max(work.retry_after, kReportEvery);
  repaired_objects_ += work.copied_objects;
  damage_.End(again, work.copied_objects);
}

// One at a time. A replica that is current no longer, or has another one beside it, is compared
// when it joins or repaired when it is read.
void Shards::BeginCheck(placement::Time now) {
  if (check_begun_ || now < check_at_) return;
  while (!checks_.empty() && !IsOnlyCurrent(checks_.front())) checks_.pop_front();
  if (checks_.empty()) return;
  check_begun_ = true;
  BeginWork({.kind = Action::Kind::kCompare,
             .shard = checks_.front().shard,
             .member = checks_.front().member,
             .job = kCheck});
}

// One member at a time: it drops what a process that died had not yet had it drop.
void Shards::BeginList() {
  if (list_begun_ || unlisted_.empty()) return;
  list_begun_ = true;
  BeginWork({.kind = Action::Kind::kDrop, .shard = 0, .member = unlisted_.front(), .job = kList},
            {}, /*list=*/true);
}

}  // namespace farswap::remote
