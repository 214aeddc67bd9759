#include "remote/cluster.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <climits>
#include <cstddef>
#include <optional>
#include <random>
#include <set>
#include <utility>

#include "remote/completions.h"
#include "remote/get_answers.h"
#include "remote/members.h"
#include "remote/opening_gate.h"
#include "remote/put_part.h"
#include "remote/session.h"
#include "remote/shard_map.h"
#include "rpc/completion_threads.h"

namespace farswap::remote {

using tier::GetResult;
using tier::PutResult;

namespace {

constexpr std::size_t kServersMax = 256;
constexpr std::size_t kNameBytesMax = 128;

bool NameInRange(const std::string& name) { return !name.empty() && name.size() <= kNameBytesMax; }

std::string Check(const ClusterConfig& config) {
  if (config.servers.size() > kServersMax) {
    return "more than " + std::to_string(kServersMax) + " memory servers";
  }
  std::set<std::string> seen;
  for (const std::string& address : config.servers) {
    if (address.empty()) return "a memory server's address is empty";
    if (!seen.insert(address).second) return "memory server " + address + " is listed twice";
  }
  if (!NameInRange(config.host_id)) return "the host id must have 1 to 128 bytes";
  if (!NameInRange(config.device)) return "the device's name must have 1 to 128 bytes";
  if (config.slots == 0) return "the device has no slots";
  for (const auto wait :
       {config.fetch_wait, config.put_wait, config.open_wait, config.answer_wait, config.close_wait,
        config.outage_wait, config.full_wait, config.move_wait}) {
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

class Cluster::State final : public SessionPeers {
 public:
  explicit State(const ClusterConfig& config)
      : map(config.slots, Seed()),
        config_(config),
        members_(config.servers, config.move_wait),
        gate_(config.servers.size(), config.answer_wait, config.take_over) {
    // One per run of the daemon: opening the volume again raises no epoch.
    const auto nonce = std::bit_cast<std::array<std::byte, 16>>(std::array{Seed(), Seed()});
    for (std::size_t number = 0; number < config.servers.size(); ++number) {
      const SessionConfig session{
          .number = number, .cluster = &config_, .host_name = HostName(), .session_nonce = nonce};
      sessions_.push_back(Session::Create(session, this, &completion_thread));
    }
    for (const auto& session : sessions_) session->Start();
  }

  Members& members() override { return members_; }
  OpeningGate& gate() override { return gate_; }
  void OnDecided() override {
    for (const auto& session : sessions_) session->OnDecided();
  }
  void OnMoved(std::size_t session) override { sessions_[session]->OnMoved(); }
  void OnStoreGone(std::size_t session, MemberIndex gone) override {
    lost_shards[session] += map.ShardCount(gone);
  }

  const std::vector<std::unique_ptr<Session>>& sessions() const { return sessions_; }
  /// Target of the member; nullptr: none, or its store is gone.
  Target* TargetOf(std::optional<MemberIndex> member) const {
    const auto number = member ? members_.SessionOf(*member) : std::nullopt;
    return number ? sessions_[*number].get() : nullptr;
  }

  ShardMap map;
  std::array<std::atomic<std::uint64_t>, kServersMax> lost_shards{};  // by session
  Completions completions;
  rpc::CompletionThreads completion_thread{std::make_unique<grpc::CompletionQueue>(),
                                           "fs-remote-grpc", 1, &PrepareToAnswer};

 private:
  const ClusterConfig config_;
  Members members_;
  OpeningGate gate_;
  std::vector<std::unique_ptr<Session>> sessions_;  // last: they use all of the above
};

namespace {

// Candidates for the batch's new shards, looked up once, if it has any.
class Candidates {
 public:
  explicit Candidates(const std::vector<std::unique_ptr<Session>>& sessions)
      : sessions_(sessions) {}

  /// `former`: the shard's earlier member whose store is gone, if any.
  std::optional<MemberIndex> Place(ShardMap* map, tier::ObjectKey key,
                                   std::optional<MemberIndex> former) {
    if (!looked_up_) LookUp();
    return map->Place(key, found_.data(), count_, former.value_or(kNoMember));
  }

  /// Why no server was available.
  PutResult problem() const {
    return any_connected_ ? PutResult::kServerFull : PutResult::kUnavailable;
  }

 private:
  void LookUp() {
    looked_up_ = true;
    for (const auto& session : sessions_) {
      const MemberIndex member = session->connected_member();
      any_connected_ |= member != kNoMember;
      if (member == kNoMember || !session->placeable()) continue;
      found_[count_] = {member, session->free_bytes()};
      ++count_;
    }
  }

  const std::vector<std::unique_ptr<Session>>& sessions_;
  bool looked_up_ = false;
  bool any_connected_ = false;
  std::size_t count_ = 0;
  std::array<Candidate, kServersMax> found_;
};

}  // namespace

Result<std::unique_ptr<Cluster>> Cluster::Create(const ClusterConfig& config) {
  std::string problem = Check(config);
  if (!problem.empty()) return Error{std::move(problem)};
  return std::unique_ptr<Cluster>(new Cluster(std::make_unique<State>(config)));
}

Cluster::Cluster(std::unique_ptr<State> state) : state_(std::move(state)) {}

Cluster::~Cluster() { Stop(); }

void Cluster::Put(tier::PutBatch* batch) {
  const auto parts_left = std::make_shared<std::atomic<std::uint32_t>>(0);
  std::array<PutPart*, kServersMax> part_of{};  // by session
  std::uint32_t parts = 0;
  const auto new_part = [&](MemberIndex member) {
    ++parts;
    auto part = std::make_unique<PutPart>();
    part->batch = batch;
    part->parts_left = parts_left;
    part->member = member;
    return part.release();
  };
  Candidates candidates(state_->sessions());
  for (std::size_t i = 0; i < batch->count; ++i) {
    const tier::ObjectKey key = batch->objects[i].key;
    std::optional<MemberIndex> member = state_->map.MemberOf(key);
    if (!state_->TargetOf(member)) member = candidates.Place(&state_->map, key, member);
    if (!member) {
      batch->results[i] = candidates.problem();
      continue;
    }
    batch->results[i] = PutResult::kUnavailable;
    const auto session = state_->members().SessionOf(*member);
    if (!session) continue;  // its store is just gone
    PutPart*& part = part_of[*session];
    if (!part) part = new_part(*member);
    // Or the session has just changed its member.
    if (part->member == *member) part->indices[part->count++] = static_cast<std::uint8_t>(i);
  }
  // Without any part, an empty one ends the batch.
  PutPart* const empty = parts == 0 ? new_part(kNoMember) : nullptr;
  // From here on the last part may finish the batch at any time.
  parts_left->store(parts);
  if (empty) state_->completions.Finish(empty);
  for (std::size_t i = 0; i < state_->sessions().size(); ++i) {
    PutPart* const part = part_of[i];
    if (!part || state_->sessions()[i]->Put(part)) continue;
    part->results.fill(PutResult::kUnavailable);
    state_->completions.Finish(part);
  }
}

void Cluster::Get(tier::RemoteFetch* fetch) {
  const std::optional<MemberIndex> member = state_->map.MemberOf(fetch->keys[0]);
  Target* const target = state_->TargetOf(member);
  if (!target) {
    state_->completions.Finish(fetch, GetResult::kNotFound);
  } else if (!target->Get(fetch, *member)) {
    state_->completions.Finish(fetch, GetResult::kUnavailable);
  }
}

bool Cluster::TakesDiscards(tier::SlotIndex slot) const {
  const Target* const target = state_->TargetOf(state_->map.MemberOf(slot));
  return !target || target->TakesDiscards();
}

void Cluster::Discard(std::span<const tier::DiscardItem> items) {
  Target* const target = state_->TargetOf(state_->map.MemberOf(items.front().key));
  if (target) target->Discard(items);
}

bool Cluster::Writable() const {
  return std::any_of(state_->sessions().begin(), state_->sessions().end(),
                     [](const auto& session) { return session->writable(); });
}

std::vector<Cluster::ServerInfo> Cluster::Servers() const {
  std::vector<ServerInfo> servers;
  for (std::size_t i = 0; i < state_->sessions().size(); ++i) {
    const SessionStatus status = state_->sessions()[i]->status();
    const bool known = status.member != kNoMember;
    servers.push_back({status, state_->members().AddressOf(i),
                       known ? state_->map.ShardCount(status.member) : 0, state_->lost_shards[i]});
  }
  return servers;
}

std::string Cluster::ServerOf(tier::SlotIndex slot) const {
  const std::optional<MemberIndex> member = state_->map.MemberOf(slot);
  const auto session = member ? state_->members().SessionOf(*member) : std::nullopt;
  return session ? state_->members().AddressOf(*session) : "";
}

void Cluster::Stop() {
  for (const auto& session : state_->sessions()) session->BeginStop();
  for (const auto& session : state_->sessions()) session->Stop();
}

}  // namespace farswap::remote
