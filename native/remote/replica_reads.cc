#include "remote/replica_reads.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace farswap::remote {

using placement::ReplicaSet;
using placement::ReplicaState;
using tier::GetResult;
using tier::RemoteFetch;

namespace {

bool Answers(const Target& target, MemberIndex member) {
  return target.connected_member() == member && !target.stalled();
}

}  // namespace

bool ReplicaReads::Ask(RemoteFetch* fetch, MemberIndex slow) const {
  const ReplicaSet set = shards_.SetOf(fetch->keys[0]);
  for (const bool first_choice : {true, false}) {
    const auto ask = [&](MemberIndex member, Target* target) {
      if ((member != slow && Answers(*target, member)) != first_choice) return false;
      fetch->route.asked = member;
      return target->Get(fetch, member);
    };
    if (AnyUnasked(*fetch, set, ask)) return true;
  }
  return false;
}

void ReplicaReads::OnAnswered(RemoteFetch* fetch, const GetResults& results) {
  RemoteFetch::Route& route = fetch->route;
  if (route.open == 0 && route.answered == 0) return fetch->OnGetDone();
  const std::size_t answer = route.answered++;
  route.answerers[answer] = route.asked;
  route.left[answer] = route.open;
  ForEachOpen(*fetch, [&](std::size_t index) {
    if (results[index] != GetResult::kUnavailable) route.bad[answer] |= std::uint64_t{1} << index;
  });
  if (route.open != 0 && route.answered < route.answerers.size() && Ask(fetch)) return;
  RepairBad(*fetch);
  EndFetch(fetch, results);
}

void ReplicaReads::RepairBad(const RemoteFetch& fetch) const {
  const RemoteFetch::Route& route = fetch.route;
  for (std::size_t good = 1; good < route.answered; ++good) {
    const std::uint64_t delivered = route.left[good - 1] & ~route.left[good];
    for (std::size_t bad = 0; bad < good; ++bad) {
      for (std::uint64_t keys = route.bad[bad] & delivered; keys != 0; keys &= keys - 1) {
        shards_.Repair({.key = fetch.keys[static_cast<std::size_t>(std::countr_zero(keys))],
                        .member = route.answerers[bad],
                        .source = route.answerers[good]});
      }
    }
  }
}

bool ReplicaReads::HasAnother(const RemoteFetch& fetch) const {
  return AnyUnasked(fetch, shards_.SetOf(fetch.keys[0]), [&](MemberIndex member, Target* target) {
    return member != fetch.route.asked && Answers(*target, member);
  });
}

void ReplicaReads::MoveOn(RemoteFetch* fetch) {
  if (!Ask(fetch, fetch->route.asked)) EndFetch(fetch, GetResult::kUnavailable);
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
