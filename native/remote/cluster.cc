#include "remote/cluster.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <climits>
#include <cstddef>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <utility>

#include "remote/completions.h"
#include "remote/members.h"
#include "remote/opening_gate.h"
#include "remote/put_part.h"
#include "remote/replica_reads.h"
#include "remote/session.h"
#include "remote/shards.h"
#include "rpc/completion_threads.h"

namespace farswap::remote {

using placement::ReplicaSet;
using placement::ReplicaState;
using tier::GetResult;
using tier::PutResult;

namespace {

constexpr std::size_t kServersMax = 256;
constexpr std::size_t kNameBytesMax = 128;

bool NameInRange(const std::string& name) { return !name.empty() && name.size() <= kNameBytesMax; }

std::string CheckReplicas(std::size_t replicas) {
  constexpr std::size_t kMax = ReplicaSet::kReplicasMax;
  if (replicas >= 1 && replicas <= kMax) return "";
  return "a page has 1 to " + std::to_string(kMax) + " replicas";
}

std::string CheckSpread(const std::string& label) {
  return NameInRange(label) ? "" : "a label's name must have 1 to 128 bytes";
}

std::string Check(const ClusterConfig& config) {
  if (config.servers.size() > kServersMax) {
    return "more than " + std::to_string(kServersMax) + " memory servers";
  }
  std::set<std::string> seen;
  for (const std::string& address : config.servers) {
    if (address.empty()) return "a memory server's address is empty";
    if (address.size() > tier::MemberRecord::kAddressBytesMax) {
      return "the memory server's address " + address + " is too long";
    }
    if (!seen.insert(address).second) return "memory server " + address + " is listed twice";
  }
  if (!NameInRange(config.host_id)) return "the host id must have 1 to 128 bytes";
  if (!NameInRange(config.device)) return "the device's name must have 1 to 128 bytes";
  if (config.slots == 0) return "the device has no slots";
  if (std::string problem = CheckReplicas(config.replicas); !problem.empty()) return problem;
  if (std::string problem = CheckSpread(config.spread); !problem.empty()) return problem;
  for (const auto wait : {config.fetch_wait, config.put_wait, config.open_wait, config.answer_wait,
                          config.close_wait, config.outage_wait, config.silence_wait,
                          config.full_wait, config.move_wait, config.rebalance_every}) {
    if (wait.count() <= 0) return "every wait must be positive";
  }
  return "";
}

std::uint64_t Seed() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

// In ASCII, as a string of a message must be UTF-8. Empty if it is not known.
std::string HostName() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  gethostname(name.data(), name.size() - 1);
  std::string ascii(name.data());
  std::ranges::replace_if(
      ascii, [](char c) { return c <= ' ' || c > '~'; }, '?');
  return ascii;
}

}  // namespace

class Cluster::State final : public SessionPeers, private ShardServers, private Targets {
 public:
  State(const ClusterConfig& config, std::shared_ptr<tier::State> kept)
      : kept_(std::move(kept)),
        shards({.slots = config.slots,
                .host_id = config.host_id,
                .replicas = config.replicas,
                .repair_after = config.repair_after,
                .rebalance_every = config.rebalance_every,
                .seed = Seed(),
                .words = kept_ ? kept_->shard_words() : std::span<std::atomic<std::uint64_t>>{}},
               this),
        config_(config),
        nonce_(std::bit_cast<std::array<std::byte, 16>>(std::array{Seed(), Seed()})),
        members_(config.move_wait, config.spread,
                 kept_ ? kept_->members() : std::span<tier::MemberRecord>{}),
        // Servers know the successor of a process by its takeover count.
        gate_(config.answer_wait, config.take_over || config.takeover_count > 0) {}

  Outcome Start() {
    const Outcome recovered = config_.takeover_count > 0 ? Recover() : Outcome(std::monostate{});
    if (!recovered.ok()) return recovered.error();
    shards.Start();
    ListServers({});
    return std::monostate{};
  }

  Outcome Recover() {
    auto gone = members_.Recover(shards.Named(), Clock::now());
    if (!gone.ok()) return gone.error();
    shards.Recover();
    for (const MemberIndex member : gone.value()) shards.OnStoreGone(member);
    return std::monostate{};
  }

  /// Beside those of the configuration.
  void ListServers(std::span<const std::string> addresses) {
    const std::lock_guard lock(grow_mutex_);
    if (stopping_) return;
    const std::size_t known = session_count_;
    std::vector<std::string> all = config_.servers;
    all.insert(all.end(), addresses.begin(), addresses.end());
    for (const std::size_t number : members_.List(all, kServersMax)) {
      if (number < known) {
        lost_shards[number] = 0;
        sessions_[number]->OnListed();
        continue;
      }
      gate_.AddSession();
      const SessionConfig session{.number = number,
                                  .cluster = &config_,
                                  .host_name = HostName(),
                                  .session_nonce = nonce_,
                                  .member = members_.BoundTo(number)};
      sessions_[number] = Session::Create(session, this, &completion_thread);
      session_count_.store(number + 1, std::memory_order_release);
    }
    // All at once: the volume is opened when no server that is known by then names an owner.
    for (const auto& session : sessions().subspan(known)) session->Start();
    for (const std::string& address : addresses) ListAgain(address);
  }

  /// A server of another store may have the address of a removed one.
  void ListAgain(const std::string& address) {
    for (std::size_t number = 0; number < sessions().size(); ++number) {
      const bool forgotten = sessions()[number]->status().state == SessionState::kForgotten;
      if (forgotten && members_.AddressOf(number) == address) sessions()[number]->OnListed();
    }
  }

  /// ListServers() does nothing from now on.
  void StopGrowing() {
    const std::lock_guard lock(grow_mutex_);
    stopping_ = true;
  }

  Members& members() override { return members_; }
  OpeningGate& gate() override { return gate_; }
  FetchRouter& router() override { return reads; }
  void OnDecided() override {
    for (const auto& session : sessions()) session->OnDecided();
  }
  void OnMoved(std::size_t session) override { sessions_[session]->OnMoved(); }
  void OnStoreGone(std::size_t session, MemberIndex gone) override {
    lost_shards[session] += shards.OnStoreGone(gone);
  }
  void OnRemoved(const ServerId& uuid) override {
    const std::lock_guard lock(grow_mutex_);  // a free session may get another address
    const MemberIndex member = members_.MemberOf(uuid);
    const bool in_use = member != kNoMember && shards.status(member).here > 0;
    if (const auto session = members_.Remove(uuid, in_use)) sessions_[*session]->OnRemoved();
  }
  void OnOpened(MemberIndex member, bool intact) override { shards.OnOpened(member, intact); }
  void OnAway(MemberIndex member) override { shards.OnAway(member); }
  PlacementInfo PlacementOn(MemberIndex member) const override { return shards.status(member); }
  void OnDamage(MemberIndex member, const std::vector<DamageReports::Report>& reports) override {
    shards.OnDamage(member, reports);
  }
  std::vector<DamageReports::Compared> ComparedOn(MemberIndex member) const override {
    return shards.ComparedOn(member);
  }
  std::size_t replicas() const override { return shards.replicas(); }

  std::span<const std::unique_ptr<Session>> sessions() const {
    return std::span(sessions_).first(session_count_.load(std::memory_order_acquire));
  }
  Target* TargetOf(MemberIndex member) const override {
    const auto number = members_.SessionOf(member);
    return number ? sessions_[*number].get() : nullptr;
  }

  /// The member whose store is at the address.
  std::optional<MemberIndex> MemberAt(const std::string& address) const {
    for (std::size_t number = 0; number < sessions().size(); ++number) {
      if (members_.AddressOf(number) != address) continue;
      const MemberIndex member = sessions()[number]->status().member;
      if (member != kNoMember) return member;
    }
    return std::nullopt;
  }

  /// Why no server has room for a new shard.
  PutResult WhyNotPlaced() const {
    const bool any = std::ranges::any_of(
        sessions(), [](const auto& session) { return session->connected_member() != kNoMember; });
    return any ? PutResult::kServerFull : PutResult::kUnavailable;
  }

 private:
  const std::shared_ptr<tier::State> kept_;

 public:
  Shards shards;
  ReplicaReads reads{&shards, this};
  std::array<std::atomic<std::uint64_t>, kServersMax> lost_shards{};  // by session
  Completions completions;
  rpc::CompletionThreads completion_thread{std::make_unique<grpc::CompletionQueue>(),
                                           "fs-remote-grpc", 1, &PrepareToAnswer};

 private:
  std::vector<Report> Reports() const override {
    std::vector<Report> reports;
    for (const auto& session : sessions()) {
      const MemberIndex member = session->connected_member();
      if (member == kNoMember) continue;
      const placement::Peer peer = PeerOf(member);
      reports.push_back({member, session->report()});
      reports.back().member.id = peer.id;
      reports.back().member.leaving |= members_.IsRetired(member);
      reports.back().member.domain = peer.domain;
    }
    return reports;
  }
  placement::Peer PeerOf(MemberIndex member) const override {
    const auto id = std::bit_cast<std::array<std::uint64_t, 2>>(members_.UuidOf(member));
    return {member, id[0] ^ id[1], members_.DomainNumberOf(member)};
  }
  std::optional<OpenedServer> WhereIs(MemberIndex member) const override {
    const auto number = members_.SessionOf(member);
    const auto opened = number ? sessions_[*number]->opened() : std::nullopt;
    if (!opened) return std::nullopt;
    return OpenedServer{members_.UuidOf(member), opened->address, opened->volume};
  }

  const ClusterConfig config_;
  const std::array<std::byte, 16> nonce_;  // of this run: opening the volume again raises no epoch
  Members members_;
  OpeningGate gate_;

  std::mutex grow_mutex_;  // guards stopping_; sessions are listed and freed under it
  bool stopping_ = false;
  // The data path reads them without a lock. A session is in its place before the count has it,
  // and before a member is bound to it. Last: they use all of the above.
  std::atomic<std::size_t> session_count_{0};
  std::array<std::unique_ptr<Session>, kServersMax> sessions_;
};

Result<std::unique_ptr<Cluster>> Cluster::Create(ClusterConfig config,
                                                 std::shared_ptr<tier::State> state) {
  if (state) {
    config.incarnation = state->incarnation();
    config.takeover_count = state->takeovers();
    config.slots = state->slots().size();
  }
  std::string problem = Check(config);
  if (!problem.empty()) return Error{std::move(problem)};
  std::unique_ptr<Cluster> cluster(new Cluster(std::make_unique<State>(config, std::move(state))));
  if (const Outcome started = cluster->state_->Start(); !started.ok()) return started.error();
  return cluster;
}

Cluster::Cluster(std::unique_ptr<State> state) : state_(std::move(state)) {}

Cluster::~Cluster() { Stop(); }

void Cluster::Put(tier::PutBatch* batch) {
  const auto split =
      std::make_shared<SplitBatch>(batch, &state_->shards, state_->shards.BeginPut());
  std::array<PutPart*, kServersMax> part_of{};  // by session
  const auto new_part = [&](MemberIndex member) {
    ++split->parts_left;
    auto part = std::make_unique<PutPart>();
    part->split = split;
    part->member = member;
    return part.release();
  };
  // False: the replica's store is just gone.
  const auto add = [&](std::size_t index, MemberIndex member) {
    const auto session = state_->members().SessionOf(member);
    if (!session) return false;
    PutPart*& part = part_of[*session];
    if (!part) part = new_part(member);
    if (part->member != member) return false;  // or the session has just changed its member
    part->indices[part->count++] = static_cast<std::uint8_t>(index);
    return true;
  };
  for (std::size_t i = 0; i < batch->count; ++i) {
    const tier::ObjectKey key = batch->objects[i].key;
    ReplicaSet set = state_->shards.SetToChange(key);
    if (set.empty()) set = state_->shards.Place(key);
    bool any = false;
    bool all = true;
    for (const placement::Replica& replica : set.All()) {
      if (replica.state != ReplicaState::kJoining && replica.state != ReplicaState::kCurrent) {
        continue;
      }
      const bool added = add(i, replica.member);
      any |= added;
      all &= added;
    }
    batch->results[i] = any && all ? PutResult::kAcked : PutResult::kUnavailable;
    if (set.empty()) batch->results[i] = state_->WhyNotPlaced();
  }
  // Without any part, an empty one ends the batch.
  PutPart* const empty = split->parts_left == 0 ? new_part(kNoMember) : nullptr;
  // From here on the last part may finish the batch at any time.
  if (empty) state_->completions.Finish(empty);
  for (std::size_t i = 0; i < state_->sessions().size(); ++i) {
    PutPart* const part = part_of[i];
    if (!part || state_->sessions()[i]->Put(part)) continue;
    part->results.fill(PutResult::kUnavailable);
    state_->completions.Finish(part);
  }
}

void Cluster::Get(tier::RemoteFetch* fetch) {
  fetch->route = {};
  fetch->route.open = ~std::uint64_t{0} >> (tier::RemoteFetch::kKeysMax - fetch->count);
  if (state_->reads.Ask(fetch)) return;
  const bool placed = !state_->shards.SetOf(fetch->keys[0]).empty();
  state_->completions.Finish(fetch, placed ? GetResult::kUnavailable : GetResult::kNotFound);
}

// Members that take the shard's Discards. A stale one is compared before it is current again.
template <typename Function>
void Cluster::ForEachTaker(const ReplicaSet& set, Function function) const {
  for (const placement::Replica& replica : set.All()) {
    const bool takes =
        replica.state == ReplicaState::kJoining || replica.state == ReplicaState::kCurrent;
    Target* const target = takes ? state_->TargetOf(replica.member) : nullptr;
    if (target) function(target);
  }
}

bool Cluster::TakesDiscards(tier::SlotIndex slot) const {
  bool takes = true;
  ForEachTaker(state_->shards.SetOf(slot),
               [&](const Target* target) { takes &= target->TakesDiscards(); });
  return takes;
}

void Cluster::Discard(std::span<const tier::DiscardItem> items) {
  const ReplicaSet set = state_->shards.SetToChange(items.front().key);
  ForEachTaker(set, [&](Target* target) { target->Discard(items); });
}

bool Cluster::Writable() const {
  return std::ranges::any_of(state_->sessions(),
                             [](const auto& session) { return session->writable(); });
}

std::vector<Cluster::ServerInfo> Cluster::Servers() const {
  const std::vector<placement::AwayMember> away = Placement().away;
  std::vector<ServerInfo> servers;
  for (std::size_t i = 0; i < state_->sessions().size(); ++i) {
    const SessionStatus status = state_->sessions()[i]->status();
    if (status.state == SessionState::kForgotten) continue;
    const bool known = status.member != kNoMember;
    const std::uint32_t shards = state_->shards.status(status.member).here;
    const auto its = std::ranges::find(away, status.member, &placement::AwayMember::member);
    std::uint32_t last_shards = its == away.end() ? shards : its->last_shards;
    if (status.connected()) last_shards = 0;
    servers.push_back({status, state_->members().AddressOf(i),
                       known ? state_->members().DomainOf(status.member) : "",
                       known ? state_->members().LabelsOf(status.member) : Labels{}, shards,
                       last_shards, state_->lost_shards[i]});
  }
  return servers;
}

std::vector<Cluster::ReplicaInfo> Cluster::ReplicasOf(tier::SlotIndex slot) const {
  std::vector<ShardInfo> found = PlacedShards(Shards::ShardOf(slot), 1);
  return found.empty() ? std::vector<ReplicaInfo>{} : std::move(found[0].replicas);
}

std::vector<Cluster::ShardInfo> Cluster::PlacedShards(std::uint64_t first,
                                                      std::uint64_t count) const {
  std::vector<ShardInfo> found;
  const std::uint64_t shards = state_->shards.count();
  for (std::uint64_t shard = first; shard < shards && shard - first < count; ++shard) {
    ShardInfo info{.shard = shard, .replicas = {}};
    const auto slot = static_cast<tier::SlotIndex>(shard * tier::kShardSlots);
    for (const placement::Replica& replica : state_->shards.SetOf(slot).All()) {
      const auto session = state_->members().SessionOf(replica.member);
      if (replica.state == ReplicaState::kNone || !session) continue;
      info.replicas.push_back({state_->members().AddressOf(*session), NameOf(replica.state)});
    }
    if (!info.replicas.empty()) found.push_back(std::move(info));
  }
  return found;
}

Outcome Cluster::MoveShard(std::uint64_t shard, const std::string& from, const std::string& to) {
  if (shard >= state_->shards.count()) return Error{"the device has no such shard"};
  const auto source = state_->MemberAt(from);
  const auto target = state_->MemberAt(to);
  if (!source) return Error{from + " is no memory server of this host"};
  if (!target) return Error{to + " is no memory server of this host"};
  std::string problem =
      state_->shards.Move(static_cast<placement::ShardIndex>(shard), *source, *target);
  if (!problem.empty()) return Error{std::move(problem)};
  return std::monostate{};
}

Outcome Cluster::SetPlacement(std::optional<std::size_t> replicas,
                              const std::optional<std::string>& spread) {
  std::string problem = replicas ? CheckReplicas(*replicas) : "";
  if (problem.empty() && spread) problem = CheckSpread(*spread);
  if (!problem.empty()) return Error{std::move(problem)};
  if (spread) {
    state_->members().SpreadBy(*spread);
    state_->shards.OnSpreadChanged();
  }
  if (replicas) state_->shards.SetReplicas(*replicas);
  return std::monostate{};
}

void Cluster::CompareWith(tier::StoredObjects* objects) { state_->shards.CompareWith(objects); }

void Cluster::ListServers(std::span<const std::string> addresses) {
  state_->ListServers(addresses);
}

PlacementInfo Cluster::Placement() const {
  PlacementInfo info = state_->shards.status(kNoMember);
  info.spread = state_->members().spread();
  return info;
}

void Cluster::Stop() {
  state_->StopGrowing();
  state_->shards.Stop();
  for (const auto& session : state_->sessions()) session->BeginStop();
  for (const auto& session : state_->sessions()) session->Stop();
}

}  // namespace farswap::remote
