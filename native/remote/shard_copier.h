// Copies, compares and drops shards on memory servers, by calls of its own, on a few threads
// "fs-remote-copy-N". Pages travel from server to server; the host only says which.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "placement/planner.h"
#include "remote/lane.h"
#include "remote/members.h"
#include "tier/remote_store.h"

namespace grpc {
class ClientContext;
}

namespace farswap::remote {

/// A server where the volume is open.
struct OpenedServer {
  ServerId uuid{};
  std::string address;
  OpenedVolume volume;
};

/// kCopy, kCompare or kDrop, and where. Or a list of the shards that the member has objects of.
struct ShardWork {
  placement::Action action;
  OpenedServer member;
  std::vector<OpenedServer> sources;   // kCopy: the first one; kCompare: other current replicas
  tier::StoredObjects* objects;        // kCompare
  std::vector<std::uint64_t> repairs;  // kCopy: of these objects alone, in place of equal versions
  bool list = false;
};

struct FinishedWork {
  placement::Action action;
  placement::ActionResult result;
  std::chrono::milliseconds retry_after{};
  std::uint64_t copied_objects = 0;
  std::uint64_t missing_pages = 0;  // kCompare: in objects that no replica has
  std::vector<std::uint64_t> shards{};
};

class ShardCopier {
 public:
  /// Called on the copier's threads, without locks.
  class Owner {
   public:
    virtual void OnWorkDone(const FinishedWork& work) = 0;
    /// Whether the member is still none of the shard's set.
    virtual bool MayDrop(const placement::Action& action) const = 0;

   protected:
    ~Owner() = default;
  };

  ShardCopier(std::size_t threads, Owner* owner);
  ~ShardCopier();  // after Stop()

  void Start();
  void Add(ShardWork work);
  /// Cancels calls that have had no answer since `before`: gRPC's own deadlines follow the wall
  /// clock.
  void CancelSilent(TimePoint before);
  /// Cancels everything and joins the threads; work that was not done is not reported. Idempotent.
  void Stop();

  class Call;  // one that can be cancelled

 private:
  void Run();

  const std::size_t thread_count_;
  Owner* const owner_;

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::deque<ShardWork> work_;
  std::list<Call*> calls_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace farswap::remote
