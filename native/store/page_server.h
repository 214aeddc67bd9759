// A memory server without its control plane: a store and its gRPC service. Python's farswap.server
// owns one per process, through bind/.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "store/page_store.h"

namespace farswap::store {

struct PageServerConfig {
  std::string listen;  // "host:port"; port 0 is any free port
  std::string path;    // directory of the store; its parent must exist
  std::uint64_t capacity_bytes = 0;
  std::uint64_t block_cache_bytes = 0;
  std::map<std::string, std::string> labels{};  // for hosts, by name
  std::chrono::milliseconds keepalive{30000};   // silence after which a host is disconnected
  LeaseConfig leases{};
  std::chrono::milliseconds source_silence_max{5000};  // ends a copy from another server
  std::uint64_t reserve_bytes = 0;                     // this and the next: see PageStoreConfig
  std::uint64_t quota_default = kNoQuota;
  ScrubConfig scrub{};
};

class PageServer {
 public:
  /// Opens the store, then listens and serves.
  static Result<std::unique_ptr<PageServer>> Create(const PageServerConfig& config);
  ~PageServer();  // calls Stop() without grace

  int port() const;
  /// Ids of the store and of this run.
  const Id& uuid() const;
  const Id& run_id() const;
  ServerState State() const;
  std::vector<VolumeInfo> Volumes() const;
  /// Number of shards of which an object is kept. An error is RocksDB's, or that it is stopped.
  Result<std::uint64_t> CountShards(std::uint64_t volume_id) const;
  /// See PageStore.
  Outcome SetDraining(bool draining);
  Outcome RemoveServer(const Id& uuid);
  Outcome Scrub();
  Result<VolumeInfo> DeleteVolume(const std::string& host_id, const std::string& device,
                                  bool force);
  Outcome SetQuota(const std::string& host_id, const std::string& device,
                   std::optional<std::uint64_t> quota_bytes);
  /// After Stop(), this and Volumes() return their last values.
  std::vector<std::pair<std::string, std::uint64_t>> Stats() const;
  /// Address of the admin service, for Describe.
  void SetAdminAddress(const std::string& address);
  /// Deletes volumes of hosts that are silent for too long; returns changes of owners since the
  /// last call. Call it every few seconds.
  std::vector<OwnerEvent> WatchOwners();
  /// See PageStore; empty after Stop().
  std::string DiskProblem() const;
  /// Ends all streams, waits up to `grace` for their requests, then flushes and closes the store.
  /// Idempotent.
  void Stop(std::chrono::milliseconds grace);

 private:
  struct Impl;
  explicit PageServer(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace farswap::store
