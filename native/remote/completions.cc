#include "remote/completions.h"

#include <utility>

#include "base/check.h"
#include "base/thread.h"
#include "remote/get_answers.h"

namespace farswap::remote {

Completions::Completions() {
  thread_ = StartThread("fs-remote", [this] {
    PrepareToAnswer();
    Run();
  });
}

Completions::~Completions() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

void Completions::Finish(PutPart* part) {
  const std::lock_guard lock(mutex_);
  part->newer = std::exchange(parts_, part);
  changed_.notify_all();
}

void Completions::Finish(tier::RemoteFetch* fetch, tier::GetResult result) {
  FARSWAP_CHECK(result == tier::GetResult::kNotFound || result == tier::GetResult::kUnavailable);
  const std::lock_guard lock(mutex_);
  tier::RemoteFetch*& list = result == tier::GetResult::kNotFound ? not_found_ : unavailable_;
  fetch->route.next = std::exchange(list, fetch);
  changed_.notify_all();
}

void Completions::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || parts_ || not_found_ || unavailable_; });
    PutPart* part = std::exchange(parts_, nullptr);
    tier::RemoteFetch* const not_found = std::exchange(not_found_, nullptr);
    tier::RemoteFetch* const unavailable = std::exchange(unavailable_, nullptr);
    if (!part && !not_found && !unavailable) return;
    lock.unlock();
    while (part) FinishPart(std::exchange(part, part->newer));
    ForEachFetch(not_found, [](auto* fetch) { EndFetch(fetch, tier::GetResult::kNotFound); });
    ForEachFetch(unavailable, [](auto* fetch) { EndFetch(fetch, tier::GetResult::kUnavailable); });
    lock.lock();
  }
}

}  // namespace farswap::remote
