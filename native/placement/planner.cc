#include "placement/planner.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/step.h"

namespace farswap::placement {

using enum ReplicaState;

Planner::Planner(const PlannerConfig& config, std::span<std::atomic<std::uint64_t>> words)
    : config_(config),
      own_words_(words.empty() ? config.shards : 0),
      words_(words.empty() ? own_words_ : words),
      random_(config.seed) {
  FARSWAP_CHECK(words_.size() == config.shards);
  FARSWAP_CHECK(config.replicas >= 1 && config.replicas <= ReplicaSet::kReplicasMax);
  // Hosts do not move shards in step.
  rebalance_at_ = Time(
      static_cast<std::int64_t>(Pick(static_cast<std::size_t>(config.rebalance_every.count()))));
}

// --- What a shard needs: a function of its set and of the members.

Planner::Need Planner::NeedOf(const ReplicaSet& set) const {
  if (set.empty() || set.Count(kJoining) > 0) return Need::kNothing;
  const std::size_t current = set.Count(kCurrent);
  if (current == 0) return StaleToPromote(set) ? Need::kPromote : Need::kNothing;
  const auto stale = StaleToRejoin(set);
  if (!SourceOf(set)) return Need::kNothing;
  bool waits = false;
  bool leaves = false;
  for (const Replica& replica : set.All()) {
    if (replica.state == kStale) waits |= !ReplaceNow(replica.member);
    if (replica.state == kCurrent) leaves |= members_[replica.member].reported.leaving;
  }
  if (current < config_.replicas) {
    if (stale) return Need::kRejoin;
    return waits ? Need::kNothing : Need::kReplace;
  }
  return leaves || MayMoveApart(set) ? Need::kMove : Need::kNothing;
}

// A member that is back and has room for the changes.
std::optional<MemberIndex> Planner::StaleToRejoin(const ReplicaSet& set) const {
  for (const Replica& replica : set.All()) {
    if (replica.state == kStale && members_[replica.member].takes_copies()) return replica.member;
  }
  return std::nullopt;
}

// Nothing is copied to it, so that it may be full or leave.
std::optional<MemberIndex> Planner::StaleToPromote(const ReplicaSet& set) const {
  if (const auto stale = StaleToRejoin(set)) return stale;
  for (const Replica& replica : set.All()) {
    if (replica.state == kStale && members_[replica.member].present()) return replica.member;
  }
  return std::nullopt;
}

bool Planner::ReplaceNow(MemberIndex stale) const {
  const State& member = members_[stale];
  if (member.away || !member.known) return member.replaced;
  return !member.takes_shards() || member.rest >= config_.repair_after;
}

std::optional<MemberIndex> Planner::SourceOf(const ReplicaSet& set) const {
  for (const Replica& replica : set.All()) {
    if (replica.state == kCurrent && members_[replica.member].present()) return replica.member;
  }
  return std::nullopt;
}

// --- Where a replica goes.

std::size_t Planner::Pick(std::size_t count) {
  return std::uniform_int_distribution<std::size_t>(0, count - 1)(random_);
}

// Two different ones, if there are two.
std::pair<std::size_t, std::size_t> Planner::PickTwo(std::size_t count) {
  const std::size_t first = Pick(count);
  return {first, count > 1 ? (first + 1 + Pick(count - 1)) % count : first};
}

// The emptier of two random ones: M. Mitzenmacher, The Power of Two Choices, IEEE TPDS 12(10),
// 2001.
std::optional<MemberIndex> Planner::Emptier(std::span<const MemberIndex> members) {
  if (members.empty()) return std::nullopt;
  const auto [one, other] = PickTwo(members.size());
  const MemberIndex first = members[one];
  const MemberIndex second = members[other];
  const auto fullness = [this](MemberIndex index) { return members_[index].reported.fullness(); };
  return fullness(second) < fullness(first) ? second : first;
}

bool Planner::SharesDomain(MemberIndex member, const ReplicaSet& set) const {
  return std::ranges::any_of(set.All(), [&](const Replica& replica) {
    return replica.state != kNone && replica.state != kStale &&
           members_[replica.member].reported.domain == members_[member].reported.domain;
  });
}

// The fullest current replica that shares a failure domain with another one.
std::optional<MemberIndex> Planner::Crowding(const ReplicaSet& set) const {
  std::optional<MemberIndex> worst;
  for (const Replica& replica : set.All()) {
    const MemberIndex member = replica.member;
    if (replica.state != kCurrent || !SharesDomain(member, set.With(member, kNone))) continue;
    if (!worst || members_[member].reported.fullness() > members_[*worst].reported.fullness()) {
      worst = member;
    }
  }
  return worst;
}

// Whether two replicas share a failure domain, and another one takes shards.
bool Planner::MayMoveApart(const ReplicaSet& set) const {
  if (!Crowding(set)) return false;
  return std::ranges::any_of(open_domains_, [&](std::uint32_t domain) {
    return std::ranges::none_of(set.All(), [&](const Replica& replica) {
      return replica.state == kCurrent && members_[replica.member].reported.domain == domain;
    });
  });
}

// The one whose hash with those that stay is highest: shards that were together stay together, on
// every host, so that repairs make few sets that are no copysets.
std::optional<MemberIndex> Planner::Usual(std::span<const MemberIndex> members,
                                          const ReplicaSet& stays) const {
  std::uint64_t together = 0;
  for (const Replica& replica : stays.All()) {
    if (replica.state == kCurrent) together += members_[replica.member].reported.id;
  }
  const auto hash = [&](MemberIndex member) {
    return HashOf(together, members_[member].reported.id);
  };
  const auto best = std::ranges::max_element(members, {}, hash);
  return best == members.end() ? std::nullopt : std::optional(*best);
}

// A member for one more replica: of a copyset with all that stay, or else of another failure
// domain, or else any.
std::optional<MemberIndex> Planner::Target(const ReplicaSet& set, std::optional<MemberIndex> leaver,
                                           bool by_reserve) {
  const ReplicaSet stays = leaver ? set.With(*leaver, kNone) : set;
  const auto usable = [&](MemberIndex member) {
    const State& state = members_[member];
    return (by_reserve ? state.has_reserve() : state.takes_copies()) && !set.StateOf(member);
  };
  const auto replicas = stays.All();
  std::vector<MemberIndex> candidates;
  for (const Copyset& copyset : copysets_) {
    const auto members = copyset.All();
    const bool together = std::ranges::all_of(replicas, [&](const Replica& replica) {
      return replica.state != kCurrent ||
             std::ranges::find(members, replica.member) != members.end();
    });
    if (!together) continue;
    for (const MemberIndex member : members) {
      if (usable(member) && !SharesDomain(member, stays)) candidates.push_back(member);
    }
  }
  if (const auto target = Emptier(candidates)) return target;
  std::ranges::copy_if(placeable_, std::back_inserter(candidates), usable);
  const auto sharing =
      std::partition(candidates.begin(), candidates.end(),
                     [&](MemberIndex member) { return !SharesDomain(member, stays); });
  if (const auto target = Usual({candidates.begin(), sharing}, stays)) return target;
  return Usual({sharing, candidates.end()}, stays);
}

// A member that was never reported takes no shards.
Planner::State& Planner::StateOf(MemberIndex index) {
  if (index >= members_.size()) members_.resize(index + std::size_t{1});
  return members_[index];
}

ReplicaSet Planner::Place(ShardIndex shard) {
  if (const ReplicaSet set = SetOf(shard); !set.empty()) {
    if (set.untouched()) Change(shard, set.Touched());
    return SetOf(shard);
  }
  const auto fullest = [this](const Copyset& copyset) {
    double most = 0.0;
    for (const MemberIndex member : copyset.All()) {
      most = std::max(most, members_[member].reported.fullness());
    }
    return most;
  };
  std::vector<const Copyset*> usable;
  for (const Copyset& copyset : copysets_) {
    const bool takes = std::ranges::all_of(
        copyset.All(), [this](MemberIndex member) { return members_[member].takes_shards(); });
    if (takes && copyset.count >= config_.replicas) usable.push_back(&copyset);
  }
  ReplicaSet set;
  if (!usable.empty()) {
    const auto [one, other] = PickTwo(usable.size());
    const Copyset* first = usable[one];
    const Copyset* second = usable[other];
    const Copyset* chosen = fullest(*second) < fullest(*first) ? second : first;
    for (const MemberIndex member : chosen->All().first(config_.replicas)) {
      set = set.With(member, kCurrent);
    }
  }
  // No copyset is whole: as many replicas as there are members.
  while (set.Count(kCurrent) < config_.replicas) {
    const auto member = Target(set, std::nullopt);
    if (!member) break;
    set = set.With(*member, kCurrent);
  }
  Change(shard, set);
  Consider(shard);
  return set;
}

std::string Planner::Move(ShardIndex shard, MemberIndex from, MemberIndex to) {
  const ReplicaSet set = shard < config_.shards ? SetOf(shard) : ReplicaSet{};
  if (set.StateOf(from) != kCurrent) return "the shard has no current replica there";
  if (set.StateOf(to)) return "the shard has a replica there already";
  if (jobs_.contains(shard)) return "another replica of the shard is being made";
  if (!SourceOf(set)) return "no server with a current replica is connected";
  if (!StateOf(to).takes_shards()) return "the target is away, full or draining";
  const ReplicaSet moved = set.With(from, kNone);
  if (SharesDomain(to, moved) && MayMoveApart(moved.With(to, kCurrent))) {
    return "another replica of the shard is in the target's failure domain";
  }
  // In a full set a stale replica makes room; without one all are current.
  std::optional<MemberIndex> leaver;
  for (const Replica& replica : set.All()) {
    if (set.full() && replica.state == kStale) leaver = replica.member;
  }
  const bool retires = !set.full() || leaver;
  Join(shard, to, retires ? leaver : from, false);
  if (retires) jobs_.at(shard).retires = from;
  return "";
}

// --- The one place where a shard's set changes.

void Planner::Change(ShardIndex shard, ReplicaSet set) {
  Count(SetOf(shard), ~0u);
  Count(set, 1);
  for (const Replica& replica : set.All()) {
    if (replica.state != kNone) drops_.Forget(replica.member, shard);
  }
  words_[shard].store(set.word(), std::memory_order_release);
  Reach(Step::kShardChanged);
}

// Adds `one`, which is 1 or wraps to -1, to each count that the set is in.
void Planner::Count(const ReplicaSet& set, std::uint32_t one) {
  if (!set.empty() && set.Count(kCurrent) < config_.replicas) debt_ += one;
  if (Crowding(set)) crowded_ += one;
  for (const Replica& replica : set.All()) {
    if (replica.state != kNone) members_[replica.member].replicas += one;
  }
}

// --- Events.

void Planner::UseCopysets(std::vector<Copyset> copysets) {
  copysets_ = std::move(copysets);
  placeable_.clear();
  for (const Copyset& copyset : copysets_) {
    placeable_.insert(placeable_.end(), copyset.All().begin(), copyset.All().end());
  }
  std::ranges::sort(placeable_);
  placeable_.erase(std::unique(placeable_.begin(), placeable_.end()), placeable_.end());
  // Some may not have been reported yet.
  if (!placeable_.empty()) StateOf(placeable_.back());
  scan_wanted_ = true;
}

void Planner::SetReplicas(std::size_t replicas) {
  FARSWAP_CHECK(replicas >= 1 && replicas <= ReplicaSet::kReplicasMax);
  config_.replicas = replicas;
  debt_ = 0;
  for (ShardIndex shard = 0; shard < config_.shards; ++shard) {
    const ReplicaSet set = SetOf(shard);
    debt_ += !set.empty() && set.Count(kCurrent) < replicas ? 1 : 0;
    if (!jobs_.contains(shard)) Trim(shard);
  }
  scan_wanted_ = true;
}

void Planner::Report(MemberIndex index, const Member& member) {
  State& state = StateOf(index);
  const bool took_shards = state.takes_shards();
  const bool had_reserve = state.has_reserve();
  const bool was_crammed = state.crammed();
  const Member before = std::exchange(state.reported, member);
  state.known = true;
  const bool moved = before.domain != member.domain;
  scan_wanted_ |= took_shards != state.takes_shards() || had_reserve != state.has_reserve() ||
                  before.leaving != member.leaving || moved;
  if (state.crammed() && !was_crammed) drops_.MayBeDue();
  if (!moved || state.replicas == 0) return;
  crowded_ = 0;
  for (ShardIndex shard = 0; shard < config_.shards; ++shard) {
    crowded_ += Crowding(SetOf(shard)) ? 1 : 0;
  }
}

// --- Jobs.

// Sorts shards by what they need: after a change of a member, which may concern all of them.
void Planner::Scan() {
  scan_wanted_ = false;
  for (auto& shards : waiting_) shards.clear();
  open_domains_.clear();
  for (const MemberIndex member : placeable_) {
    const std::uint32_t domain = members_[member].reported.domain;
    const bool listed = std::ranges::find(open_domains_, domain) != open_domains_.end();
    if (!listed && members_[member].takes_shards()) open_domains_.push_back(domain);
  }
  for (ShardIndex shard = 0; shard < config_.shards; ++shard) {
    TrimRecovered(shard);
    Consider(shard);
  }
}

void Planner::Consider(ShardIndex shard) {
  const Need need = NeedOf(SetOf(shard));
  if (need != Need::kNothing) waiting_[static_cast<std::size_t>(need)].push_back(shard);
}

void Planner::StartJobs() {
  for (auto& shards : waiting_) {
    while (!shards.empty()) {
      if (jobs_.size() >= config_.jobs_max) return;
      const ShardIndex shard = shards.back();
      shards.pop_back();
      StartJob(shard);
    }
  }
}

void Planner::StartJob(ShardIndex shard) {
  const ReplicaSet set = SetOf(shard);
  const Need need = NeedOf(set);
  if (need == Need::kNothing) return;
  // Where every current replica is gone, the host finds out by comparing what the stale one lacks.
  if (need == Need::kPromote) {
    return Join(shard, *StaleToPromote(set), std::nullopt, true, Action::Kind::kCompare);
  }
  if (need == Need::kRejoin) return Join(shard, *StaleToRejoin(set), std::nullopt, true);
  // In a full set one replica makes room: a stale one, or else the one that leaves.
  std::optional<MemberIndex> leaver;
  bool leaves = false;
  for (const Replica& replica : set.All()) {
    const bool leaving = replica.state == kCurrent && members_[replica.member].reported.leaving;
    if (replica.state == kStale || (leaving && !leaver)) leaver = replica.member;
    leaves |= leaving;
  }
  const auto crowding = need == Need::kMove && !leaves ? Crowding(set) : std::nullopt;
  if (!leaver) leaver = crowding;
  const auto target = Target(set, crowding ? crowding : leaver);
  if (target && crowding && SharesDomain(*target, set.With(*crowding, kNone))) return;
  if (target) {
    Join(shard, *target, set.full() ? leaver : std::nullopt, false);
  } else if (need == Need::kReplace) {
    JoinByReserve(shard, leaver);
  }
  // Else it waits for a scan, which the report of a member with room brings.
}

// Where the stale replica is, or else on another full member.
void Planner::JoinByReserve(ShardIndex shard, std::optional<MemberIndex> leaver) {
  const ReplicaSet set = SetOf(shard);
  for (const Replica& replica : set.All()) {
    if (replica.state == kStale && members_[replica.member].has_reserve()) {
      return Join(shard, replica.member, std::nullopt, true);
    }
  }
  if (const auto target = Target(set, leaver, true)) {
    Join(shard, *target, set.full() ? leaver : std::nullopt, false);
  }
}

void Planner::Join(ShardIndex shard, MemberIndex member, std::optional<MemberIndex> leaver,
                   bool changes_only, Action::Kind first) {
  ReplicaSet set = SetOf(shard);
  if (leaver) set = set.With(*leaver, kNone);
  Change(shard, set.With(member, kJoining));
  jobs_[shard] = Job{.id = ++last_job_,
                     .member = member,
                     .leaver = leaver,
                     .changes_only = changes_only,
                     .step = first};
}

void Planner::SkipToCompare(ShardIndex shard) {
  Job& job = jobs_.at(shard);
  job.id = ++last_job_;
  job.step = Action::Kind::kCompare;
  job.under_way = false;
}

void Planner::Finished(const Action& action, ActionResult result, Time now, Time retry_after) {
  if (action.kind == Action::Kind::kDrop) {
    return drops_.Finished(action, result, now + config_.retry_after);
  }
  const auto found = jobs_.find(action.shard);
  if (found == jobs_.end()) return;
  Job& job = found->second;
  if (!job.under_way || job.id != action.job || job.step != action.kind) return;
  job.under_way = false;
  if (result == ActionResult::kFailed) {
    Abandon(action.shard);
    resume_at_ = now + config_.retry_after;
  } else if (result == ActionResult::kLater) {
    job.not_before = now + retry_after;
  } else if (job.step == Action::Kind::kSettle) {
    job.step = Action::Kind::kCopy;
  } else if (job.step == Action::Kind::kCopy) {
    job.step = Action::Kind::kCompare;
  } else {
    Complete(action.shard, Job(job));
  }
}

void Planner::Complete(ShardIndex shard, const Job& job) {
  jobs_.erase(shard);
  members_[job.member].rest = {};
  Change(shard, SetOf(shard).With(job.member, kCurrent));
  drops_.MayBeDue();  // an earlier replica, kept while the shard was in debt
  if (job.leaver) Drop(shard, *job.leaver);
  const ReplicaSet set = SetOf(shard);
  if (job.retires && set.StateOf(*job.retires) == kCurrent &&
      set.Count(kCurrent) > config_.replicas) {
    Change(shard, set.With(*job.retires, kNone));
    Drop(shard, *job.retires);
  }
  Trim(shard);
  Consider(shard);
}

// The joining replica leaves. One that had an older copy stays what it was.
void Planner::Abandon(ShardIndex shard) {
  const auto job = jobs_.extract(shard);
  const ReplicaSet set = SetOf(shard);
  const auto [member, had_copy] = std::pair(job.mapped().member, job.mapped().changes_only);
  Change(shard, set.With(member, had_copy ? kStale : kNone));
  if (!had_copy) Drop(shard, member);
  if (job.mapped().leaver) Drop(shard, *job.mapped().leaver);
  Consider(shard);
}

// Takes out what is more than wanted: those that leave first, then those that share a failure
// domain, then the fullest.
void Planner::Trim(ShardIndex shard) {
  ReplicaSet set = SetOf(shard);
  while (set.Count(kCurrent) >= config_.replicas) {
    const bool surplus = set.Count(kCurrent) > config_.replicas;
    std::optional<MemberIndex> worst;
    double worst_rank = 0.0;
    for (const Replica& replica : set.All()) {
      const bool candidate = replica.state == kStale || (surplus && replica.state == kCurrent);
      if (!candidate) continue;
      const Member& member = members_[replica.member].reported;
      const bool shares = SharesDomain(replica.member, set.With(replica.member, kNone));
      const double rank = replica.state == kStale ? 4.0
                          : member.leaving        ? 3.0
                                                  : std::min(1.0, member.fullness()) + shares;
      if (!worst || rank > worst_rank) worst = replica.member, worst_rank = rank;
    }
    if (!worst) return;
    set = set.With(*worst, kNone);
    Change(shard, set);
    Drop(shard, *worst);
  }
}

void Planner::Drop(ShardIndex shard, MemberIndex member) { drops_.Add(member, shard, ++last_job_); }

void Planner::IssueDrops(Time now, std::vector<Action>* actions) {
  drops_.Issue(
      now, [this](MemberIndex member) { return members_[member].present(); },
      [this](MemberIndex member, ShardIndex shard) {
        const ReplicaSet set = SetOf(shard);
        return set.Count(kCurrent) >= config_.replicas ||
               (members_[member].crammed() && SourceOf(set));
      },
      actions);
}

// --- Time.

void Planner::Tick(Time now, std::vector<Action>* actions) {
  for (State& member : members_) {
    if (member.away && !member.replaced && now - member.away_since >= config_.repair_after) {
      member.replaced = scan_wanted_ = true;
    }
    if (member.rests_until && now >= *member.rests_until) {
      member.rests_until.reset();
      scan_wanted_ = true;
    }
  }
  if (now >= resume_at_) {
    if (scan_wanted_) Scan();
    StartJobs();
  }
  if (now >= rebalance_at_) {
    rebalance_at_ = now + config_.rebalance_every;
    if (jobs_.empty()) Rebalance();
  }
  Issue(now, actions);
}

void Planner::Issue(Time now, std::vector<Action>* actions) {
  IssueDrops(now, actions);
  std::vector<ShardIndex> without_source;
  for (auto& [shard, job] : jobs_) {
    if (job.under_way || job.not_before > now) continue;
    const ReplicaSet set = SetOf(shard);
    const auto source = job.step == Action::Kind::kCopy ? SourceOf(set) : job.member;
    if (!source) {
      without_source.push_back(shard);
      continue;
    }
    job.under_way = true;
    actions->push_back({.kind = job.step,
                        .shard = shard,
                        .member = job.member,
                        .source = *source,
                        .generation = set.generation(),
                        .changes_only = job.changes_only,
                        .job = job.id});
  }
  for (const ShardIndex shard : without_source) Abandon(shard);
}

Time Planner::NextTick(Time now) const {
  Time next = rebalance_at_;
  for (const auto& [shard, job] : jobs_) {
    if (!job.under_way) next = std::min(next, job.not_before);
  }
  for (const State& member : members_) {
    if (member.away && !member.replaced) {
      next = std::min(next, member.away_since + config_.repair_after);
    }
    if (member.rests_until) next = std::min(next, *member.rests_until);
  }
  const bool waiting =
      std::ranges::any_of(waiting_, [](const auto& shards) { return !shards.empty(); });
  if (scan_wanted_ || (waiting && jobs_.size() < config_.jobs_max)) {
    next = std::min(next, resume_at_);
  }
  return std::max(std::min(next, drops_.NextIssue()), now);
}

}  // namespace farswap::placement
