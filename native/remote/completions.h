// Answers without a server: a RemoteStore must not answer inside Put() and Get(), so the thread
// "fs-remote" does.
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
  ~Completions();  // answers the rest

  /// FinishPart(part).
  void Finish(PutPart* part);
  /// OnMissing(result) for every key, then OnGetDone(). kNotFound or kUnavailable.
  void Finish(tier::RemoteFetch* fetch, tier::GetResult result);

 private:
  void Run();

  // Guards all below; not held during callbacks.
  std::mutex mutex_;
  std::condition_variable changed_;
  PutPart* parts_ = nullptr;                  // linked by `newer`
  tier::RemoteFetch* not_found_ = nullptr;    // linked by Route::next
  tier::RemoteFetch* unavailable_ = nullptr;  // linked by Route::next
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace farswap::remote
