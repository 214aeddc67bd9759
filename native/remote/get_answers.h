// For threads that answer fetches: reserve memory, and end fetches.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "tier/bundle.h"
#include "tier/remote_store.h"

namespace farswap::remote {

/// Call it on a thread before it answers fetches. Memory that is not available now is requested
/// again when needed.
inline void PrepareToAnswer() {
  [[maybe_unused]] const Outcome prepared = tier::PrepareThreadForBundles();
}

/// What a replica answered for each index that is still open.
using GetResults = std::array<tier::GetResult, tier::RemoteFetch::kKeysMax>;

/// Chooses the replica that a fetch asks next. Called on any thread, without locks.
class FetchRouter {
 public:
  /// The replica that was asked has answered: the fetch asks another one for what is open, or ends.
  virtual void OnAnswered(tier::RemoteFetch* fetch, const GetResults& results) = 0;
  /// Whether a connected replica that answers could be asked in place of the one that is. Any
  /// locks.
  virtual bool HasAnother(const tier::RemoteFetch& fetch) const = 0;
  /// Whether shards have several replicas. Any locks.
  virtual bool HasReplicas() const = 0;
  /// The replica that was asked is not connected, or slow: the fetch asks another one.
  virtual void MoveOn(tier::RemoteFetch* fetch) = 0;

 protected:
  ~FetchRouter() = default;
};

template <typename Function>
void ForEachOpen(const tier::RemoteFetch& fetch, Function function) {
  for (std::uint64_t open = fetch.route.open; open != 0; open &= open - 1) {
    function(static_cast<std::size_t>(std::countr_zero(open)));
  }
}

/// Ends the fetch.
inline void EndFetch(tier::RemoteFetch* fetch, const GetResults& results) {
  ForEachOpen(*fetch, [&](std::size_t index) { fetch->OnMissing(index, results[index]); });
  fetch->OnGetDone();
}
inline void EndFetch(tier::RemoteFetch* fetch, tier::GetResult result) {
  GetResults results;
  results.fill(result);
  EndFetch(fetch, results);
}

/// `first` heads a list linked by Route::next, or is nullptr.
template <typename Function>
void ForEachFetch(tier::RemoteFetch* first, Function function) {
  while (first) function(std::exchange(first, first->route.next));
}

}  // namespace farswap::remote
