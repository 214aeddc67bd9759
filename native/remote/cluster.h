// The memory servers of a host as one store: says which server keeps which shard, cuts batches by
// server, and keeps one session an address. Nobody who calls it waits for the network. The servers
// are known by the uuids of their stores (members.h); the volume is opened only if no other host
// has it (opening_gate.h).
//
// Threads: "fs-remote" and "fs-remote-grpc", and one "fs-remote-N" a server; gRPC adds a few of its
// own for timers, name resolution and executors, which mostly sleep. No fork once it runs. Answers
// come on our threads; whoever answers must not block: fetches of all servers are answered by one
// thread.
//
// Set GRPC_POLL_STRATEGY=poll in the environment before gRPC is first used, here and in the memory
// server: by default all threads of a process take turns in polling all its sockets, and an answer
// passes through one more thread than it has to (1-page fetch: 3.9 times a raw ping-pong, not 2.7).
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
  std::chrono::milliseconds fetch_wait{60000};  // a fetch whose server is away waits so long
  std::chrono::milliseconds put_wait{10000};    // a batch waits so long for an answer
  std::chrono::milliseconds open_wait{3000};    // an attempt to connect is given up after that
  std::chrono::milliseconds answer_wait{
      1000};                                   // for the other servers, before the volume is opened
  std::chrono::milliseconds close_wait{1000};  // to close the volume, at the end
  std::chrono::milliseconds outage_wait{2000};  // a server away for longer gets no more batches
  std::chrono::milliseconds full_wait{1000};    // a server that is full is left alone for so long
  std::chrono::milliseconds move_wait{10000};   // a silent server may be at another address then
};

class Cluster final : public tier::RemoteStore {
 public:
  /// Starts connecting; a server that cannot be reached is no error, it is tried again. Fails with
  /// a message when the config is out of range.
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
    std::string last_error;         // why the last connection ended or could not be had
    std::uint64_t disconnected_ms;  // 0 when connected
    std::uint32_t shards;
    std::string uuid;        // hexadecimal; "": not known
    std::string owner_name;  // of another host that has the volume, as far as is known
    std::string owner_address;
    std::uint64_t lost_shards;       // of stores that were at the address and are gone
    std::uint64_t unclean_restarts;  // after each of which acknowledged pages may be missing
  };
  std::vector<ServerInfo> Servers() const;

  /// Address of the server that keeps the slot's shard; "" if it has none.
  std::string ServerOf(tier::SlotIndex slot) const;

  /// Fails what is under way with kUnavailable, calls every callback, closes the volume, joins the
  /// sessions. Later calls are answered kUnavailable. Idempotent.
  void Stop();

 private:
  class State;
  explicit Cluster(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace farswap::remote
