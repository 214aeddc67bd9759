// The memory servers of a host as one store: cuts batches by server, asks one replica after the
// other, and has one session per address. Where replicas are is in shards.h. Callers never wait for
// the network. Servers are known by the uuids of their
// stores (members.h); the volume is opened only if no other host has it (opening_gate.h).
//
// Threads: "fs-remote", "fs-remote-grpc", and one "fs-remote-N" per server; gRPC adds a few for
// timers, name resolution and executors. No fork once it runs. Callbacks run on these threads and
// must not block: one thread answers the fetches of all servers.
//
// Set GRPC_POLL_STRATEGY=poll before gRPC is first used, here and in the memory server: by default
// all threads take turns in polling all sockets, and an answer passes through one more thread
// (1-page fetch: 3.9 instead of 2.7 times a raw ping-pong).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "remote/config.h"
#include "remote/members.h"
#include "remote/placement_info.h"
#include "remote/session_record.h"
#include "tier/remote_store.h"
#include "tier/state.h"

namespace farswap::remote {

class Cluster final : public tier::RemoteStore {
 public:
  /// Starts connecting, and retries unreachable servers. Fails if the config is out of range or the
  /// state damaged. The state has the device's shards; none: they end with the process, and the
  /// config names incarnation and slots. On an adopted state the servers of its shards are dialled
  /// where they were last, and keep their pages.
  static Result<std::unique_ptr<Cluster>> Create(ClusterConfig config,
                                                 std::shared_ptr<tier::State> state = nullptr);
  ~Cluster() override;  // Stop()

  /// Compares servers with these objects from now on, until Stop(). Called before the first Put,
  /// and after the recovery of the tier.
  void CompareWith(tier::StoredObjects* objects);

  void Put(tier::PutBatch* batch) override;
  void Get(tier::RemoteFetch* fetch) override;
  bool TakesDiscards(tier::SlotIndex slot) const override;
  void Discard(std::span<const tier::DiscardItem> items) override;
  bool Writable() const override;

  /// The addresses of servers, beside those of the configuration; a session with each, up to 256 in
  /// all. A server that is no longer listed stays, unless it was never used at its address.
  void ListServers(std::span<const std::string> addresses);

  struct ServerInfo : SessionStatus {
    std::string address;
    std::string failure_domain;  // "": unknown
    Labels labels;
    std::uint32_t shards;
    std::uint32_t last_shards;  // of these, without a current replica on a server that answers
    std::uint64_t lost_shards;  // of earlier stores at the address
  };
  std::vector<ServerInfo> Servers() const;

  struct ReplicaInfo {
    std::string address;
    std::string state;
  };
  /// Of the slot's shard; empty if it is not placed.
  std::vector<ReplicaInfo> ReplicasOf(tier::SlotIndex slot) const;
  PlacementInfo Placement() const;

  struct ShardInfo {
    std::uint64_t shard;
    std::vector<ReplicaInfo> replicas;
  };
  /// Those of `count` shards from the first that are placed.
  std::vector<ShardInfo> PlacedShards(std::uint64_t first, std::uint64_t count) const;
  /// Begins to copy a shard's replica from one server to another, which takes its place. By the
  /// servers' addresses.
  Outcome MoveShard(std::uint64_t shard, const std::string& from, const std::string& to);
  /// Changes the number of replicas of every page, 1 to 3, and the label in which they differ;
  /// nullopt: as it is. Copies follow.
  Outcome SetPlacement(std::optional<std::size_t> replicas,
                       const std::optional<std::string>& spread);

  /// Fails pending calls with kUnavailable, runs all callbacks, closes the volume, joins the
  /// sessions. Later calls fail with kUnavailable. Idempotent.
  void Stop();

 private:
  class State;
  template <typename Function>
  void ForEachTaker(const placement::ReplicaSet& set, Function function) const;
  explicit Cluster(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace farswap::remote
