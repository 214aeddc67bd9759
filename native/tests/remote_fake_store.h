// A memory server for tests: the page protocol over a map in memory, with faults on request. Real
// gRPC on a loopback port; port and pages survive Stop() and Start().
#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "farswap/v1/page_store.grpc.pb.h"

namespace farswap::remote {

class FakeStore final : private v1::PageStore::Service {
 public:
  /// Changes an answer before it is sent. Called with the fake's lock held.
  using Corrupt = std::function<void(const v1::GetRequest&, v1::GetResponse*)>;

  /// What it does wrong. Change it by Tell().
  struct Script {
    bool hold_puts = false;          // read no further batch
    bool chatter = false;            // while it holds Puts, answer batches that nobody sent
    bool hold_gets = false;          // answer no further fetch
    bool hold_closes = false;        // answer no CloseVolume
    bool hold_copies = false;        // answer no CopyShard
    int refused_copies = 0;          // so many CopyShard are answered RETRY_AFTER
    bool full = false;               // every page is answered FULL
    std::size_t reverse_gets = 0;    // gather so many, then answer the last one first
    int unknown_volumes = 0;         // so many requests are answered UNKNOWN_VOLUME
    bool fenced = false;             // every request is answered FENCED
    bool fail_discards = false;      // the next Discard fails once
    bool hold_call = false;          // the next OpenVolume or Discard is not answered
    bool fail_open = false;          // the next OpenVolume fails once, after it was served
    bool retired = false;            // OpenVolume is answered FENCED: there is a successor
    bool ignore_heartbeats = false;  // read them, and answer none
    bool unclean = false;            // this run of the store began without a clean end
    std::chrono::milliseconds lease{10000};
    v1::ServerState state = v1::SERVER_STATE_ACTIVE;
    std::string uuid = NewId();
    std::vector<std::string> removed;     // uuids of other stores that an operator removed
    std::uint32_t put_objects_max = 256;  // what OpenVolume says
    std::uint32_t protocol = 2;           // the only version that it speaks
    std::uint64_t capacity_bytes = std::uint64_t{1} << 30;
    std::uint64_t used_bytes = 0;
    Corrupt corrupt;
    std::function<void(v1::PutResponse*)> corrupt_put;
  };

  FakeStore() { Start(); }
  ~FakeStore() override { Stop(); }

  void Start();
  void Stop();
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  int port() const { return port_; }

  void Tell(const std::function<void(Script*)>& change) {
    const std::lock_guard lock(mutex_);
    change(&script_);
    changed_.notify_all();
  }

  /// Another host has the volume from now on, alive for so long.
  void BeOwnedFor(std::chrono::milliseconds alive);
  /// The owner was silent for longer than its lease.
  void EndLease() {
    const std::lock_guard lock(mutex_);
    alive_until_ = {};
  }

  struct Seen {
    std::uint64_t opens = 0;  // that were no probes
    std::uint64_t probes = 0;
    std::uint64_t take_overs = 0;
    std::uint64_t heartbeats = 0;
    std::uint64_t closes = 0;
    std::uint64_t batches = 0;
    std::uint64_t fetches = 0;
    std::uint64_t discards = 0;
    std::uint64_t copy_calls = 0;            // of CopyShard, also those that are held
    std::uint64_t copies = 0;                // of whole shards that it was called to make
    std::vector<std::uint64_t> copied_keys;  // of other copies
    std::vector<std::uint64_t> repaired_keys;
    std::string repair_source;  // address of the last one
  };
  Seen seen() const {
    const std::lock_guard lock(mutex_);
    return seen_;
  }
  /// Loses an object.
  void Lose(std::uint64_t key) {
    const std::lock_guard lock(mutex_);
    objects_.erase(key);
  }
  bool Has(std::uint64_t key) const {
    const std::lock_guard lock(mutex_);
    return objects_.contains(key);
  }

 private:
  static std::string NewId();
  bool WasHeld(grpc::ServerContext* context, std::unique_lock<std::mutex>& lock);
  grpc::Status OpenVolume(grpc::ServerContext*, const v1::OpenVolumeRequest*,
                          v1::OpenVolumeResponse*) override;
  grpc::Status Session(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::SessionResponse, v1::SessionRequest>* stream) override;
  grpc::Status CloseVolume(grpc::ServerContext*, const v1::CloseVolumeRequest*,
                           v1::CloseVolumeResponse*) override;
  grpc::Status Put(grpc::ServerContext*,
                   grpc::ServerReaderWriter<v1::PutResponse, v1::PutRequest>* stream) override;
  grpc::Status Get(grpc::ServerContext*,
                   grpc::ServerReaderWriter<v1::GetResponse, v1::GetRequest>* stream) override;
  grpc::Status Discard(grpc::ServerContext*, const v1::DiscardRequest*,
                       v1::DiscardResponse*) override;

  grpc::Status CopyShard(grpc::ServerContext*, const v1::CopyShardRequest*,
                         grpc::ServerWriter<v1::CopyShardResponse>*) override;
  grpc::Status ListShard(grpc::ServerContext*, const v1::ListShardRequest*,
                         v1::ListShardResponse*) override;

  v1::CallStatus StatusOf(std::uint64_t epoch);
  v1::PutResponse Keep(const v1::PutRequest& request);
  v1::GetResponse Find(const v1::GetRequest& request);
  // False: the server stops, or the call was cancelled.
  bool WaitWhile(grpc::ServerContext* context, const bool Script::*held,
                 const std::function<void()>& meanwhile = {});

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Script script_;
  Seen seen_;
  std::map<std::uint64_t, v1::Object> objects_;
  std::uint64_t epoch_ = 0;
  std::string nonce_;  // of the owner, whom epoch_ is of
  std::string run_id_;
  std::chrono::steady_clock::time_point alive_until_;  // the owner
  bool known_ = false;                                 // the volume, since Start()
  bool stopping_ = false;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace farswap::remote
