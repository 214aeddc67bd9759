#include "fleet.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace farswap::sim {
namespace {

using namespace std::chrono_literals;
using enum placement::ReplicaState;

constexpr std::uint64_t kShardBytes = 4096 * 1600;  // pages of a shard, compressed
constexpr double kCopyBytesPerMs = 50e3;            // of one copy between healthy servers
constexpr std::uint64_t kCopySlots = 4;             // copies that a target grants at a time
constexpr Time kDetection = 3s;                     // until a host counts a server as away
constexpr Time kRoundTrip = 1ms;
constexpr Time kCompare = 50ms;
constexpr double kChanges = 0.01;  // of a shard, while a member was away
constexpr double kHeartbeatsPerSecond = 0.5;

}  // namespace

Fleet::Fleet(const FleetConfig& config)
    : config_(config),
      present_servers_(config.servers),
      servers_(config.servers + config.newcomers),
      hosts_(config.hosts),
      kept_(config.hosts, std::vector<std::vector<MemberIndex>>(config.shards)),
      random_(config.seed) {
  const double stored = static_cast<double>(config.hosts * config.shards * config.replicas) *
                        static_cast<double>(kShardBytes);
  const double each = stored / static_cast<double>(config.servers) / config.fill;
  for (Server& server : servers_) server.capacity_bytes = static_cast<std::uint64_t>(each);
  for (std::size_t i = 0; i < hosts_.size(); ++i) {
    hosts_[i].planner = std::make_unique<placement::Planner>(placement::PlannerConfig{
        .shards = config.shards, .replicas = config.replicas, .seed = config.seed * 1000003 + i});
    hosts_[i].uses.resize(servers_.size());
  }
  Arrange();
  for (std::size_t host = 0; host < hosts_.size(); ++host)
    TickAt(host, hosts_[host].planner->NextTick(now_));
}

// The copysets of the servers that there are, and every host's.
void Fleet::Arrange() {
  std::vector<placement::Peer> peers;
  for (std::size_t i = 0; i < present_servers_; ++i) {
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
  return {.id = placement::HashOf(config_.seed, server),
          .domain = RackOf(server),
          .capacity_bytes = state.capacity_bytes,
          .used_bytes = state.used_bytes,
          .full = state.full || state.used_bytes + kShardBytes > state.capacity_bytes,
          .leaving = state.leaving};
}

// What heartbeats tell a host of the servers that it reaches.
void Fleet::ReportAll(std::size_t host) {
  for (const std::size_t server : hosts_[host].used) {
    if (Up(server)) {
      hosts_[host].planner->Report(static_cast<MemberIndex>(server), MemberOf(server));
    }
  }
}

// --- Time.

void Fleet::After(Time delay, std::function<void()> what) {
  events_.push({now_ + delay, order_++, std::move(what)});
}

void Fleet::RunUntil(Time end) {
  while (!events_.empty() && events_.top().at <= end) {
    now_ = events_.top().at;
    const auto what = events_.top().what;
    events_.pop();
    what();
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
    kept_[host][shard].push_back(replica.member);
    servers_[replica.member].used_bytes += kShardBytes;
    totals_.bytes_placed += kShardBytes;
  }
  TickAt(host, hosts_[host].planner->NextTick(now_));
}

// The earliest wish wins; a later event of the same host finds nothing to do.
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
  std::vector<MemberIndex>& kept = kept_[host][action.shard];
  const std::size_t member = action.member;
  switch (action.kind) {
    case Action::Kind::kSettle:
      return After(kRoundTrip, [=, this] { Finish(host, action, ActionResult::kDone); });
    case Action::Kind::kCopy:
      return StartCopy(host, action);
    case Action::Kind::kCompare: {
      auto& copied = hosts_[host].copied_jobs;
      if (std::erase(copied, action.job) == 0) ++totals_.promoted;
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
  std::vector<MemberIndex>& kept = kept_[host][action.shard];
  if (std::ranges::find(kept, action.member) == kept.end()) {
    kept.push_back(action.member);
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
    if (whole) hosts_[host].copied_jobs.push_back(action.job);
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
    if (!Up(server)) hosts_[host].planner->MemberAway(static_cast<MemberIndex>(server), now_);
  });
}

void Fleet::BringUp(std::size_t server) {
  if (--servers_[server].down > 0) return;
  ForHostsOf(server, kDetection, [this, server](std::size_t host) {
    if (!Up(server)) return;
    const auto member = static_cast<MemberIndex>(server);
    hosts_[host].planner->MemberBack(member, true);
    hosts_[host].planner->Report(member, MemberOf(server));
  });
}

void Fleet::Wipe(std::size_t server) {
  Server& state = servers_[server];
  ++state.life;
  state.used_bytes = 0;
  for (auto& shards : kept_) {
    for (auto& kept : shards) std::erase(kept, static_cast<MemberIndex>(server));
  }
  // All at once, so that no count is wrong in between: which host hears first decides nothing.
  for (Host& host : hosts_) {
    const auto owed = host.planner->debt();
    host.planner->MemberGone(static_cast<MemberIndex>(server));
    if (host.uses[server] && Up(server)) {
      host.planner->Report(static_cast<MemberIndex>(server), MemberOf(server));
    }
    if (host.planner->debt() > owed && !host.owes_since) host.owes_since = now_;
  }
  for (std::size_t host = 0; host < hosts_.size(); ++host) {
    TickAt(host, now_ + Jitter(kDetection));
  }
}

void Fleet::SetFull(std::size_t server, bool full) { servers_[server].full = full; }

void Fleet::SetLeaving(std::size_t server, bool leaving) {
  servers_[server].leaving = leaving;
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

std::uint64_t Fleet::ReplicasOn(std::size_t server) const {
  std::uint64_t replicas = 0;
  for (const Host& host : hosts_) {
    replicas += host.planner->ReplicasOn(static_cast<MemberIndex>(server));
  }
  return replicas;
}

double Fleet::FullnessOf(std::size_t server) const { return MemberOf(server).fullness(); }

double Fleet::Imbalance() const {
  double most = 0.0;
  double sum = 0.0;
  for (std::size_t server = 0; server < present_servers_; ++server) {
    most = std::max(most, FullnessOf(server));
    sum += FullnessOf(server);
  }
  return sum == 0.0 ? 1.0 : most * static_cast<double>(present_servers_) / sum;
}

double Fleet::HeartbeatsPerSecond() const {
  std::size_t pairs = 0;
  for (const Host& host : hosts_) pairs += host.used.size();
  return static_cast<double>(pairs) * kHeartbeatsPerSecond;
}

std::uint64_t Fleet::ShardsOnlyOn(const std::vector<bool>& servers) const {
  std::uint64_t shards = 0;
  for (const Host& host : hosts_) {
    for (ShardIndex shard = 0; shard < config_.shards; ++shard) {
      const auto set = host.planner->SetOf(shard);
      if (set.empty()) continue;
      bool elsewhere = false;
      for (const auto& replica : set.All()) {
        elsewhere |= replica.state == kCurrent && !servers[replica.member];
      }
      shards += elsewhere ? 0 : 1;
    }
  }
  return shards;
}

}  // namespace farswap::sim
