// For threads that answer fetches: reserve memory, and end fetches with one result for all slots.
#pragma once

#include <cstddef>
#include <utility>

#include "tier/bundle.h"
#include "tier/remote_store.h"

namespace farswap::remote {

/// Call it on a thread before it answers fetches. Memory that is not available now is requested
/// again when needed.
inline void PrepareToAnswer() {
  [[maybe_unused]] const Outcome prepared = tier::PrepareThreadForBundles();
}

/// What the last replica answered: an object that is refused then is missing.
inline void AnswerLast(tier::RemoteFetch* fetch, std::size_t index, tier::GetResult result,
                       const tier::Object& object) {
  if (result == tier::GetResult::kFound) {
    if (fetch->OnObject(index, object) == tier::Verdict::kAccept) return;
    result = tier::GetResult::kCorrupt;
  }
  fetch->OnMissing(index, result);
}

inline void AnswerAll(tier::RemoteFetch* fetch, tier::GetResult result) {
  for (std::size_t index = 0; index < fetch->count; ++index) fetch->OnMissing(index, result);
  fetch->OnGetDone();
}

/// `first` heads a list linked by RemoteFetch::next, or is nullptr.
inline void AnswerList(tier::RemoteFetch* first, tier::GetResult result) {
  while (first) {
    tier::RemoteFetch* const fetch = std::exchange(first, first->next);
    AnswerAll(fetch, result);
  }
}

}  // namespace farswap::remote
