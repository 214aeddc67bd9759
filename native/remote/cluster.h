// The memory servers of a host as one store: places shards, cuts batches by server, and has one
// session per address. Callers never wait for the network. Servers are known by the uuids of their
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

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "tier/remote_store.h"

namespace farswap::remote {

struct ClusterConfig {
  std::vector<std::string> servers;  // host:port, at most 256, each once; may be empty
  std::string host_id;               // 1..128 bytes
  std::string device;                // 1..128 bytes
  std::array<std::byte, 16> incarnation{};
  bool take_over = false;  // displace another host that has the volume
  std::uint64_t slots = 0;
  std::chrono::milliseconds fetch_wait{60000};  // deadline of a fetch
  std::chrono::milliseconds put_wait{10000};    // deadline of a batch
  std::chrono::milliseconds open_wait{3000};    // timeout of an attempt to connect
  std::chrono::milliseconds answer_wait{1000};  // of other servers, before opening
  std::chrono::milliseconds close_wait{1000};   // to close the volume, at the end
  std::chrono::milliseconds outage_wait{2000};  // unreachable for longer: gets no more batches
  std::chrono::milliseconds full_wait{1000};    // pause after a server was full
  std::chrono::milliseconds move_wait{10000};   // silent for longer: may have moved
};

class Cluster final : public tier::RemoteStore {
 public:
  /// Starts connecting, and retries unreachable servers. Fails if the config is out of range.
  static Result<std::unique_ptr<Cluster>> Create(const ClusterConfig& config);
  ~Cluster() override;  // Stop()

  void Put(tier::PutBatch* batch) override;
  void Get(tier::RemoteFetch* fetch) override;
  bool TakesDiscards(tier::SlotIndex slot) const override;
  void Discard(std::span<const tier::DiscardItem> items) override;
  bool Writable() const override;

  struct ServerInfo {
    std::string address;
    std::string state;  // see SessionState
    bool connected;
    std::uint64_t capacity_bytes;
    std::uint64_t used_bytes;
    std::uint64_t epoch;
    std::uint64_t reconnects;
    std::string last_error;         // why the last connection ended or failed
    std::uint64_t disconnected_ms;  // 0 if connected
    std::uint32_t shards;
    std::string uuid;        // hexadecimal; "": unknown
    std::string owner_name;  // of another host that has the volume, if known
    std::string owner_address;
    std::uint64_t lost_shards;       // of earlier stores at the address
    std::uint64_t unclean_restarts;  // each may have lost acknowledged pages
  };
  std::vector<ServerInfo> Servers() const;

  /// Address of the server with the slot's shard; "" if not placed.
  std::string ServerOf(tier::SlotIndex slot) const;

  /// Fails pending calls with kUnavailable, runs all callbacks, closes the volume, joins the
  /// sessions. Later calls fail with kUnavailable. Idempotent.
  void Stop();

 private:
  class State;
  explicit Cluster(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace farswap::remote
