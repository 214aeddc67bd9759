// A memory server without its control plane: a store and the gRPC service over it. Python's
// farswap.server owns one per process, through bind/.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "store/page_store.h"

namespace farswap::store {

struct PageServerConfig {
  std::string listen;  // "host:port"; port 0 is any free port
  std::string path;    // of the store; its parent must exist
  std::uint64_t capacity_bytes = 0;
  std::uint64_t block_cache_bytes = 0;
  std::chrono::milliseconds keepalive{30000};  // a host that is silent for so long is gone
  LeaseConfig leases{};
};

class PageServer {
 public:
  /// Opens the store, then listens. Serves when it returns.
  static Result<std::unique_ptr<PageServer>> Create(const PageServerConfig& config);
  ~PageServer();  // Stop() without grace

  int port() const;
  /// Of the store, and of this run.
  const Id& uuid() const;
  const Id& run_id() const;
  ServerState State() const;
  std::vector<VolumeInfo> Volumes() const;
  /// Also after Stop(), as Volumes(): what they were then.
  std::vector<std::pair<std::string, std::uint64_t>> Stats() const;
  /// Ends volumes whose hosts are silent for too long; returns what befell owners since the last
  /// time. Call it every few seconds.
  std::vector<OwnerEvent> WatchOwners();
  /// See PageStore; empty after Stop().
  std::string DiskProblem() const;
  /// Ends all streams, those with a request under way after `grace` at the latest, then flushes and
  /// closes the store. Idempotent.
  void Stop(std::chrono::milliseconds grace);

 private:
  struct Impl;
  explicit PageServer(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace farswap::store
