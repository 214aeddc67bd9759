#include "remote/replica_reads.h"

#include <algorithm>
#include <cstddef>
#include <span>

namespace farswap::remote {

using placement::ReplicaSet;
using placement::ReplicaState;
using tier::GetResult;
using tier::RemoteFetch;

bool ReplicaReads::Ask(RemoteFetch* fetch) const {
  const ReplicaSet set = shards_.SetOf(fetch->keys[0]);
  for (const bool connected : {true, false}) {
    const auto ask = [&](MemberIndex member, Target* target) {
      if ((target->connected_member() == member) != connected) return false;
      fetch->route.asked = member;
      return target->Get(fetch, member);
    };
    if (AnyUnasked(*fetch, set, ask)) return true;
  }
  return false;
}

void ReplicaReads::OnAnswered(RemoteFetch* fetch, const GetResults& results) {
  RemoteFetch::Route& route = fetch->route;
  if (route.open == 0) return fetch->OnGetDone();
  route.answerers[route.answered++] = route.asked;
  if (route.answered == route.answerers.size() || !Ask(fetch)) EndFetch(fetch, results);
}

bool ReplicaReads::HasAnother(const RemoteFetch& fetch) const {
  return AnyUnasked(fetch, shards_.SetOf(fetch.keys[0]), [&](MemberIndex member, Target* target) {
    return member != fetch.route.asked && target->connected_member() == member;
  });
}

void ReplicaReads::MoveOn(RemoteFetch* fetch) {
  if (!Ask(fetch)) EndFetch(fetch, GetResult::kUnavailable);
}

// Calls `ask` for each current replica that has not answered until it returns true.
template <typename Function>
bool ReplicaReads::AnyUnasked(const RemoteFetch& fetch, const ReplicaSet& set, Function ask) const {
  const auto answerers = std::span(fetch.route.answerers).first(fetch.route.answered);
  // Shards begin with different ones.
  const std::size_t first = Shards::ShardOf(fetch.keys[0]);
  for (std::size_t i = 0; i < ReplicaSet::kReplicasMax; ++i) {
    const placement::Replica replica = set.At((first + i) % ReplicaSet::kReplicasMax);
    if (replica.state != ReplicaState::kCurrent) continue;
    if (std::ranges::find(answerers, replica.member) != answerers.end()) continue;
    Target* const target = targets_.TargetOf(replica.member);
    if (target && ask(replica.member, target)) return true;
  }
  return false;
}

}  // namespace farswap::remote
