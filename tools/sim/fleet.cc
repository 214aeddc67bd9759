#include "fleet.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <utility>

namespace farswap::sim {
namespace {

using namespace std::chrono_literals;
using enum placement::ReplicaState;

constexpr std::uint64_t kShardPages = 4096;
constexpr std::uint64_t kShardBytes = kShardPages * 1600;  // compressed
constexpr double kCopyBytesPerMs = 50e3;                   // of one copy between healthy servers
constexpr std::uint64_t kCopySlots = 4;                    // copies that a target grants at a time
constexpr Time kDetection = 3s;                            // until a host counts a server as away
constexpr Time kRoundTrip = 1ms;
constexpr Time kCompare = 50ms;
constexpr double kChanges = 0.01;  // of a shard, while a member was away
constexpr double kHeartbeatsPerSecond = 0.5;
constexpr double kReserve = 0.05;  // of a server, for copies

}  // namespace

Fleet::Fleet(const FleetConfig& config)
    : config_(config),
      present_servers_(config.servers),
      servers_(config.servers + config.newcomers),
      hosts_(config.hosts),
      kept_(config.hosts, std::vector<std::vector<Copy>>(config.shards)),
      random_(config.seed) {
  const double stored = static_cast<double>(config.hosts * config.shards * config.replicas) *
                        static_cast<double>(kShardBytes);
  const double each = stored / static_cast<double>(config.servers) / config.fill;
  for (Server& server : servers_) server.capacity_bytes = static_cast<std::uint64_t>(each);
  for (std::size_t i = 0; i < hosts_.size(); ++i) {
    hosts_[i].planner = std::make_unique<placement::Planner>(
        placement::PlannerConfig{.shards = config.shards,
                                 .replicas = config.replicas,
                                 .shard_bytes = kShardBytes,
                                 .seed = config.seed * 1000003 + i});
    hosts_[i].uses.resize(servers_.size());
  }
  Arrange();
  for (std::size_t host = 0; host < hosts_.size(); ++host)
    TickAt(host, hosts_[host].planner->NextTick(now_));
}

// The copysets of the servers that stay, and every host's.
void Fleet::Arrange() {
  std::vector<placement::Peer> peers;
  for (std::size_t i = 0; i < present_servers_; ++i) {
    if (servers_[i].leaving) continue;
    peers.push_back({.member = static_cast<MemberIndex>(i),
                     .id = placement::HashOf(config_.seed, i),
                     .domain = RackOf(i)});
  }
  const auto copysets = placement::MakeCopysets(peers, config_.replicas, config_.width);
  for (std::size_t i = 0; i < hosts_.size(); ++i) {
    auto sets =
        placement::CopysetsOf(placement::HashOf(config_.seed + 1, i), copysets, config_.fanout);
    for (const auto& set : sets) {
      for (const MemberIndex member : set.All()) {
        if (!hosts_[i].uses[member]) hosts_[i].used.push_back(member);
        hosts_[i].uses[member] = true;
      }
    }
    hosts_[i].planner->UseCopysets(std::move(sets));
    ReportAll(i);
  }
}

placement::Member Fleet::MemberOf(std::size_t server) const {
  const Server& state = servers_[server];
  const auto filled = static_cast<double>(state.used_bytes + kShardBytes);
  const auto capacity = static_cast<double>(state.capacity_bytes);
  return {.id = placement::HashOf(config_.seed, server),
          .domain = RackOf(server),
          .capacity_bytes = state.capacity_bytes,
          .used_bytes = state.used_bytes,
          .full = state.full || filled > capacity * (1.0 - kReserve),
          .reserve = filled <= capacity,
          .leaving = state.leaving};
}

// What heartbeats report to a host of the servers that it reaches.
void Fleet::ReportAll(std::size_t host) {
  for (const std::size_t server : hosts_[host].used) {
    if (Up(server)) {
      hosts_[host].planner->Report(static_cast<MemberIndex>(server), MemberOf(server));
    }
  }
}

// --- Time.

void Fleet::After(Time delay, std::function<void()> what) {
  events_.push_back({now_ + delay, order_++, std::move(what)});
  std::ranges::push_heap(events_, std::greater{});
}

void Fleet::RunUntil(Time end) {
  while (!events_.empty() && events_.front().at <= end) {
    std::ranges::pop_heap(events_, std::greater{});
    const Event event = std::move(events_.back());
    events_.pop_back();
    now_ = event.at;
    event.what();
  }
  now_ = end;
}

Time Fleet::Jitter(Time most) {
  return Time(std::uniform_int_distribution<std::int64_t>(0, most.count())(random_));
}

// --- Hosts.

void Fleet::FillWithin(Time duration) {
  for (std::size_t host = 0; host < hosts_.size(); ++host) {
    for (ShardIndex shard = 0; shard < config_.shards; ++shard) {
      After(Jitter(duration), [this, host, shard] { FirstWrite(host, shard); });
    }
  }
}

void Fleet::FirstWrite(std::size_t host, ShardIndex shard) {
  ReportAll(host);
  const auto set = hosts_[host].planner->Place(shard);
  if (set.empty()) {
    ++totals_.unplaced;
    After(1min, [this, host, shard] { FirstWrite(host, shard); });
    return;
  }
  for (const auto& replica : set.All()) {
    if (replica.state == kNone) continue;
    auto& kept = kept_[host][shard];
    if (std::ranges::find(kept, replica.member, &Copy::server) != kept.end()) continue;
    kept.push_back({replica.member, true});
    servers_[replica.member].used_bytes += kShardBytes;
    totals_.bytes_placed += kShardBytes;
  }
  TickAt(host, hosts_[host].planner->NextTick(now_));
}

// The earliest time wins; a later event of the same host finds nothing to do.
void Fleet::TickAt(std::size_t host, Time at) {
  if (at >= hosts_[host].tick_at) return;
  hosts_[host].tick_at = at;
  After(at - now_, [this, host, at] {
    if (hosts_[host].tick_at != at) return;
    hosts_[host].tick_at = Time::max();
    Tick(host);
  });
}

void Fleet::Tick(std::size_t host) {
  ReportAll(host);
  std::vector<Action> actions;
  hosts_[host].planner->Tick(now_, &actions);
  for (const Action& action : actions) Start(host, action);
  NoteDebt(host);
  // Not twice at one time: what a tick could not do, another one cannot either.
  TickAt(host, std::max(now_ + 1ms, hosts_[host].planner->NextTick(now_)));
}

void Fleet::NoteDebt(std::size_t host) {
  Host& each = hosts_[host];
  if (!each.owes_since || each.planner->debt() > 0) return;
  totals_.repairs.push_back(now_ - *each.owes_since);
  each.owes_since.reset();
}

// --- Actions.

void Fleet::Start(std::size_t host, const Action& action) {
  totals_.messages += 2;
  std::vector<Copy>& kept = kept_[host][action.shard];
  const std::size_t member = action.member;
  switch (action.kind) {
    case Action::Kind::kSettle:
      return After(kRoundTrip, [=, this] { Finish(host, action, ActionResult::kDone); });
    case Action::Kind::kCopy:
      return StartCopy(host, action);
    case Action::Kind::kCompare: {
      if (std::erase(hosts_[host].copied_jobs, action.job) == 0) Promote(host, action);
      const auto result = Up(member) ? ActionResult::kDone : ActionResult::kFailed;
      return After(kCompare, [=, this] { Finish(host, action, result); });
    }
    case Action::Kind::kDrop: {
      const auto result = Up(member) ? ActionResult::kDone : ActionResult::kFailed;
      if (Up(member) && !hosts_[host].planner->SetOf(action.shard).StateOf(action.member) &&
          std::erase(kept, action.member) > 0) {
        servers_[member].used_bytes -= kShardBytes;
      }
      return After(kRoundTrip, [=, this] { Finish(host, action, result); });
    }
  }
}

// A replica without a source goes on with what it has.
void Fleet::Promote(std::size_t host, const Action& action) {
  ++totals_.promoted;
  const auto& kept = kept_[host][action.shard];
  const auto copy = std::ranges::find(kept, action.member, &Copy::server);
  const bool whole = copy != kept.end() && copy->whole;
  totals_.pages_lost += whole ? static_cast<std::uint64_t>(kChanges * kShardPages) : kShardPages;
}

void Fleet::StartCopy(std::size_t host, const Action& action) {
  Server& from = servers_[action.source];
  Server& to = servers_[action.member];
  if (!Up(action.source) || !Up(action.member)) {
    return After(kRoundTrip, [=, this] { Finish(host, action, ActionResult::kFailed); });
  }
  if (to.copying >= kCopySlots) {
    ++totals_.copies_put_off;
    return After(kRoundTrip,
                 [=, this] { Finish(host, action, ActionResult::kLater, Time(500) + Jitter(1s)); });
  }
  std::vector<Copy>& kept = kept_[host][action.shard];
  if (std::ranges::find(kept, action.member, &Copy::server) == kept.end()) {
    if (to.used_bytes + kShardBytes > to.capacity_bytes) {
      return After(kRoundTrip, [=, this] { Finish(host, action, ActionResult::kFailed); });
    }
    kept.push_back({action.member});
    to.used_bytes += kShardBytes;
  }
  totals_.copies_at_once_max = std::max(totals_.copies_at_once_max, ++to.copying);
  const double bytes = static_cast<double>(kShardBytes) * (action.changes_only ? kChanges : 1.0);
  const double duration = bytes / (kCopyBytesPerMs * std::min(from.speed, to.speed));
  After(Time(1 + std::llround(duration)), [=, this, from_life = from.life, to_life = to.life] {
    --servers_[action.member].copying;
    const bool whole =
        servers_[action.source].life == from_life && servers_[action.member].life == to_life;
    ++totals_.copies;
    totals_.copies_failed += whole ? 0 : 1;
    totals_.bytes_copied += static_cast<std::uint64_t>(bytes);
    if (whole) {
      hosts_[host].copied_jobs.push_back(action.job);
      auto& copies = kept_[host][action.shard];
      const auto copy = std::ranges::find(copies, action.member, &Copy::server);
      if (copy != copies.end()) copy->whole = true;
    }
    Finish(host, action, whole ? ActionResult::kDone : ActionResult::kFailed);
  });
}

void Fleet::Finish(std::size_t host, const Action& action, ActionResult result, Time retry) {
  hosts_[host].planner->Finished(action, result, now_, retry);
  NoteDebt(host);
  TickAt(host, hosts_[host].planner->NextTick(now_));
}

// --- Servers.

// Hosts find out one by one.
void Fleet::ForHostsOf(std::size_t server, Time detected,
                       const std::function<void(std::size_t)>& what) {
  for (std::size_t host = 0; host < hosts_.size(); ++host) {
    if (!hosts_[host].uses[server]) continue;
    After(Jitter(detected), [this, host, what] {
      what(host);
      TickAt(host, hosts_[host].planner->NextTick(now_));
    });
  }
}

void Fleet::TakeDown(std::size_t server) {
  Server& state = servers_[server];
  ++state.life;
  if (state.down++ > 0) return;
  ForHostsOf(server, kDetection, [this, server](std::size_t host) {
    if (Up(server)) return;
    placement::Planner& planner = *hosts_[host].planner;
    planner.MemberAway(static_cast<MemberIndex>(server), now_);
    // Every shard is written meanwhile.
    for (ShardIndex shard = 0; shard < config_.shards; ++shard) {
      if (planner.SetOf(shard).untouched()) planner.Place(shard);
    }
  });
}

void Fleet::BringUp(std::size_t server) {
  if (--servers_[server].down > 0) return;
  servers_[server].up_at = now_;
  ForHostsOf(server, kDetection, [this, server](std::size_t host) {
    if (!Up(server)) return;
    const auto member = static_cast<MemberIndex>(server);
    hosts_[host].planner->MemberBack(member, true);
    hosts_[host].planner->Report(member, MemberOf(server));
  });
}

// All hosts at once, so that no count is wrong in between: which one hears first decides nothing.
void Fleet::Wipe(std::size_t server) {
  Server& state = servers_[server];
  ++state.life;
  state.used_bytes = 0;
  const auto member = static_cast<MemberIndex>(server);
  const std::size_t others = Disturbed(server);
  for (std::size_t i = 0; i < hosts_.size(); ++i) {
    Host& host = hosts_[i];
    if (!host.uses[server]) continue;
    std::vector<ShardIndex> had;
    for (ShardIndex shard = 0; shard < config_.shards; ++shard) {
      std::erase(kept_[i][shard], member);
      if (host.planner->SetOf(shard).StateOf(member)) had.push_back(shard);
    }
    const auto owed = host.planner->debt();
    host.planner->MemberGone(member);
    if (Up(server)) host.planner->Report(member, MemberOf(server));
    if (host.planner->debt() > owed && !host.owes_since) host.owes_since = now_;
    for (const ShardIndex shard : had) {
      const bool lost = host.planner->SetOf(shard).Count(kCurrent) == 0;
      if (lost && others + 1 < config_.replicas) ++totals_.lost_alone;
      if (!host.planner->SetOf(shard).empty()) continue;
      totals_.pages_lost += kShardPages;
      After(Jitter(1h), [this, i, shard] { FirstWrite(i, shard); });
    }
    TickAt(i, now_ + Jitter(kDetection));
  }
}

// Other servers that are away, take no shards, or were away within the time of repairs.
std::size_t Fleet::Disturbed(std::size_t but) const {
  std::size_t count = 0;
  for (std::size_t i = 0; i < present_servers_; ++i) {
    const Server& server = servers_[i];
    const bool away = server.down > 0 || (server.up_at > Time{} && now_ - server.up_at < 2h);
    count += i != but && (away || server.full || server.leaving) ? 1 : 0;
  }
  return count;
}

void Fleet::SetFull(std::size_t server, bool full) { servers_[server].full = full; }

// Whether the servers that stay hold what there is, with a tenth to spare.
bool Fleet::MayDrain(std::size_t server) const {
  double used = 0.0;
  double capacity = 0.0;
  std::size_t staying = 0;
  for (std::size_t i = 0; i < present_servers_; ++i) {
    used += static_cast<double>(servers_[i].used_bytes);
    if (i == server || servers_[i].leaving) continue;
    capacity += static_cast<double>(servers_[i].capacity_bytes);
    ++staying;
  }
  return !servers_[server].leaving && staying > config_.replicas && used < 0.9 * capacity;
}

void Fleet::SetLeaving(std::size_t server, bool leaving) {
  servers_[server].leaving = leaving;
  Arrange();
  ForHostsOf(server, 2s, [this](std::size_t host) { TickAt(host, now_); });
}

void Fleet::AddNewcomers() {
  present_servers_ = servers_.size();
  Arrange();
}

// --- Figures.

std::uint64_t Fleet::Debt() const {
  std::uint64_t debt = 0;
  for (const Host& host : hosts_) debt += host.planner->debt();
  return debt;
}

std::uint64_t Fleet::Lost() const {
  std::uint64_t lost = 0;
  for (const Host& host : hosts_) lost += host.planner->lost();
  return lost;
}

std::uint64_t Fleet::Jobs() const {
  std::uint64_t jobs = 0;
  for (const Host& host : hosts_) jobs += host.planner->jobs();
  return jobs;
}

std::uint64_t Fleet::Undropped() const {
  std::uint64_t copies = 0;
  for (std::size_t host = 0; host < hosts_.size(); ++host) {
    for (ShardIndex shard = 0; shard < config_.shards; ++shard) {
      const auto set = hosts_[host].planner->SetOf(shard);
      for (const Copy& copy : kept_[host][shard]) copies += set.StateOf(copy.server) ? 0 : 1;
    }
  }
  return copies;
}

std::uint64_t Fleet::ReplicasOn(std::size_t server) const {
  std::uint64_t replicas = 0;
  for (const Host& host : hosts_) {
    replicas += host.planner->ReplicasOn(static_cast<MemberIndex>(server));
  }
  return replicas;
}

double Fleet::FullnessOf(std::size_t server) const { return MemberOf(server).fullness(); }

double Fleet::MeanFullness() const {
  double sum = 0.0;
  for (std::size_t server = 0; server < present_servers_; ++server) sum += FullnessOf(server);
  return sum / static_cast<double>(present_servers_);
}

double Fleet::Imbalance() const {
  double most = 0.0;
  for (std::size_t server = 0; server < present_servers_; ++server) {
    most = std::max(most, FullnessOf(server));
  }
  return most == 0.0 ? 1.0 : most / MeanFullness();
}

double Fleet::HeartbeatsPerSecond() const {
  std::size_t pairs = 0;
  for (const Host& host : hosts_) pairs += host.used.size();
  return static_cast<double>(pairs) * kHeartbeatsPerSecond;
}

std::vector<std::pair<placement::ReplicaSet, std::uint64_t>> Fleet::SetsInUse() const {
  std::map<std::vector<MemberIndex>, std::uint64_t> shards;
  for (const Host& host : hosts_) {
    for (ShardIndex shard = 0; shard < config_.shards; ++shard) {
      std::vector<MemberIndex> members;
      for (const auto& replica : host.planner->SetOf(shard).All()) {
        if (replica.state == kCurrent) members.push_back(replica.member);
      }
      std::ranges::sort(members);
      if (!members.empty()) ++shards[members];
    }
  }
  std::vector<std::pair<placement::ReplicaSet, std::uint64_t>> sets;
  for (const auto& [members, count] : shards) {
    placement::ReplicaSet set;
    for (const MemberIndex member : members) set = set.With(member, kCurrent);
    sets.emplace_back(set, count);
  }
  return sets;
}

}  // namespace farswap::sim
