// Answers that no server is needed for: a RemoteStore may not answer from inside Put() and Get(),
// so a thread of its own ("fs-remote") gives them.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "remote/put_part.h"
#include "tier/remote_store.h"

namespace farswap::remote {

class Completions {
 public:
  Completions();
  ~Completions();  // answers what is left

  /// OnPutDone(); the results are set already.
  void Finish(PutPart* part);
  /// OnMissing(result) for every key, then OnGetDone(). kNotFound or kUnavailable.
  void Finish(tier::RemoteFetch* fetch, tier::GetResult result);

 private:
  void Run();

  // Guards all below; not held while anybody is called back.
  std::mutex mutex_;
  std::condition_variable changed_;
  PutPart* parts_ = nullptr;                  // linked by `newer`
  tier::RemoteFetch* not_found_ = nullptr;    // linked by `next`
  tier::RemoteFetch* unavailable_ = nullptr;  // linked by `next`
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace farswap::remote
