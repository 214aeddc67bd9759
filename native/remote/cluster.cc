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
#include "remote/fetch_answers.h"
#include "remote/put_part.h"
#include "remote/session.h"
#include "remote/shard_map.h"
#include "rpc/completion_threads.h"

namespace farswap::remote {

using tier::GetResult;
using tier::PutResult;

namespace {

constexpr std::size_t kNameBytesMax = 128;

bool NameInRange(const std::string& name) { return !name.empty() && name.size() <= kNameBytesMax; }

std::string Check(const ClusterConfig& config) {
  if (config.servers.size() > ShardMap::kServersMax) {
    return "more than " + std::to_string(ShardMap::kServersMax) + " memory servers";
  }
  std::set<std::string> seen;
  for (const std::string& address : config.servers) {
    if (address.empty()) return "a memory server's address is empty";
    if (!seen.insert(address).second) return "memory server " + address + " is named twice";
  }
  if (!NameInRange(config.host_id)) return "the host id must have 1 to 128 bytes";
  if (!NameInRange(config.device)) return "the device's name must have 1 to 128 bytes";
  if (config.slots == 0) return "the device has no slots";
  for (const auto wait : {config.fetch_wait, config.put_wait, config.open_wait, config.outage_wait,
                          config.full_wait}) {
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

class Cluster::State {
 public:
  explicit State(const ClusterConfig& config) : map(config.slots, config.servers.size(), Seed()) {
    const auto nonce = std::bit_cast<std::array<std::byte, 16>>(std::array{Seed(), Seed()});
    for (const std::string& address : config.servers) {
      const SessionConfig session{
          .address = address,
          .number = sessions.size(),
          .host_id = config.host_id,
          .device = config.device,
          .incarnation = config.incarnation,
          .nonce = nonce,
          .host_name = HostName(),
          .slots = config.slots,
          .fetch_wait = config.fetch_wait,
          .put_wait = config.put_wait,
          .open_wait = config.open_wait,
          .outage_wait = config.outage_wait,
          .full_wait = config.full_wait,
      };
      sessions.push_back(std::make_unique<Session>(session, &completion_thread));
    }
  }

  ShardMap map;
  Completions completions;
  rpc::CompletionThreads completion_thread{std::make_unique<grpc::CompletionQueue>(),
                                           "fs-remote-grpc", 1, &PrepareToAnswer};
  std::vector<std::unique_ptr<Session>> sessions;
};

namespace {

// The servers that a batch's new shards may be placed on, looked up once, if it has any.
class Candidates {
 public:
  explicit Candidates(const std::vector<std::unique_ptr<Session>>& sessions)
      : sessions_(sessions) {}

  std::optional<ServerIndex> Place(ShardMap* map, tier::SlotIndex slot) {
    if (!looked_up_) LookUp();
    return map->Place(slot, found_.data(), count_);
  }

  /// Why there was no place.
  PutResult problem() const {
    return any_connected_ ? PutResult::kServerFull : PutResult::kUnavailable;
  }

 private:
  void LookUp() {
    looked_up_ = true;
    for (std::size_t i = 0; i < sessions_.size(); ++i) {
      any_connected_ |= sessions_[i]->connected();
      if (!sessions_[i]->writable()) continue;
      found_[count_] = {static_cast<ServerIndex>(i), sessions_[i]->free_bytes()};
      ++count_;
    }
  }

  const std::vector<std::unique_ptr<Session>>& sessions_;
  bool looked_up_ = false;
  bool any_connected_ = false;
  std::size_t count_ = 0;
  std::array<Candidate, ShardMap::kServersMax> found_;
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
  std::array<PutPart*, ShardMap::kServersMax> part_of{};
  std::uint32_t parts = 0;
  const auto new_part = [&] {
    ++parts;
    auto part = std::make_unique<PutPart>();
    part->batch = batch;
    part->parts_left = parts_left;
    return part.release();
  };
  Candidates candidates(state_->sessions);
  for (std::size_t i = 0; i < batch->count; ++i) {
    const tier::ObjectKey key = batch->pages[i].slot;
    std::optional<ServerIndex> server = state_->map.ServerOf(key);
    if (!server) server = candidates.Place(&state_->map, key);
    if (!server) {
      batch->results[i] = candidates.problem();
      continue;
    }
    PutPart*& part = part_of[*server];
    if (!part) part = new_part();
    part->indices[part->count++] = static_cast<std::uint8_t>(i);
  }
  // With no part at all, an empty one ends the batch.
  PutPart* const empty = parts == 0 ? new_part() : nullptr;
  // From here on, the batch may be finished at any moment, by the last of its parts.
  parts_left->store(parts);
  if (empty) state_->completions.Finish(empty);
  for (std::size_t i = 0; i < state_->sessions.size(); ++i) {
    PutPart* const part = part_of[i];
    if (!part || state_->sessions[i]->Put(part)) continue;
    part->results.fill(PutResult::kUnavailable);
    state_->completions.Finish(part);
  }
}

void Cluster::Get(tier::RemoteFetch* fetch) {
  const std::optional<ServerIndex> server = state_->map.ServerOf(fetch->slots[0]);
  if (!server) {
    state_->completions.Finish(fetch, GetResult::kNotFound);
    return;
  }
  if (!state_->sessions[*server]->Get(fetch)) {
    state_->completions.Finish(fetch, GetResult::kUnavailable);
  }
}

bool Cluster::TakesDiscards(tier::SlotIndex slot) const {
  const std::optional<ServerIndex> server = state_->map.ServerOf(slot);
  return !server || state_->sessions[*server]->TakesDiscards();
}

void Cluster::Discard(std::span<const tier::DiscardItem> items) {
  const std::optional<ServerIndex> server = state_->map.ServerOf(items.front().slot);
  if (server) state_->sessions[*server]->Discard(items);
}

bool Cluster::Writable() const {
  return std::any_of(state_->sessions.begin(), state_->sessions.end(),
                     [](const auto& session) { return session->writable(); });
}

std::vector<Cluster::ServerInfo> Cluster::Servers() const {
  std::vector<ServerInfo> servers;
  for (std::size_t i = 0; i < state_->sessions.size(); ++i) {
    const Session::Status status = state_->sessions[i]->status();
    servers.push_back({
        .address = state_->sessions[i]->address(),
        .connected = status.connected,
        .capacity_bytes = status.capacity_bytes,
        .used_bytes = status.used_bytes,
        .epoch = status.epoch,
        .reconnects = status.reconnects,
        .last_error = status.last_error,
        .disconnected_ms = status.disconnected_ms,
        .shards = state_->map.ShardCount(static_cast<ServerIndex>(i)),
    });
  }
  return servers;
}

std::string Cluster::ServerOf(tier::SlotIndex slot) const {
  const std::optional<ServerIndex> server = state_->map.ServerOf(slot);
  return server ? state_->sessions[*server]->address() : "";
}

void Cluster::Stop() {
  for (const auto& session : state_->sessions) session->Stop();
}

}  // namespace farswap::remote
