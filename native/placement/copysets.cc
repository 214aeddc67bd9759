#include "placement/copysets.h"

#include <algorithm>
#include <bitset>

namespace farswap::placement {

// splitmix64's finalizer (S. Vigna), over both.
std::uint64_t HashOf(std::uint64_t first, std::uint64_t second) {
  std::uint64_t mixed = first * 0x9e3779b97f4a7c15 ^ (second + 0x9e3779b97f4a7c15);
  mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
  return mixed ^ mixed >> 31;
}

namespace {

// The leader and its company, by falling hash.
Copyset MakeCopyset(const Peer& leader, std::span<const Peer> peers, std::size_t replicas,
                    std::uint64_t salt) {
  Copyset set{.members = {leader.member}, .count = 1, .id = HashOf(leader.id, salt)};
  std::array<std::uint32_t, ReplicaSet::kReplicasMax> domains{leader.domain};
  while (set.count < replicas) {
    const auto taken = std::span(domains).first(set.count);
    const Peer* best = nullptr;
    std::uint64_t best_hash = 0;
    for (const Peer& peer : peers) {
      if (std::ranges::find(taken, peer.domain) != taken.end()) continue;
      const std::uint64_t hash = HashOf(set.id, peer.id);
      if (best == nullptr || hash > best_hash) best = &peer, best_hash = hash;
    }
    if (best == nullptr) break;
    domains[set.count] = best->domain;
    set.members[set.count++] = best->member;
  }
  return set;
}

}  // namespace

std::vector<Copyset> MakeCopysets(std::span<const Peer> peers, std::size_t replicas,
                                  std::size_t width) {
  std::vector<Copyset> sets;
  sets.reserve(peers.size() * width);
  for (const Peer& leader : peers) {
    for (std::size_t salt = 0; salt < width; ++salt) {
      sets.push_back(MakeCopyset(leader, peers, replicas, salt));
    }
  }
  return sets;
}

std::vector<Copyset> CopysetsOf(std::uint64_t host, std::span<const Copyset> copysets,
                                std::size_t fanout) {
  std::vector<std::pair<std::uint64_t, const Copyset*>> ranked;
  ranked.reserve(copysets.size());
  for (const Copyset& set : copysets) ranked.emplace_back(HashOf(host, set.id), &set);
  std::ranges::sort(ranked, std::greater{}, [](const auto& entry) { return entry.first; });

  std::vector<Copyset> chosen;
  std::bitset<kMembersMax> used;
  for (const auto& [hash, set] : ranked) {
    std::bitset<kMembersMax> with = used;
    for (const MemberIndex member : set->All()) with.set(member);
    if (!chosen.empty() && with.count() > fanout) continue;
    used = with;
    chosen.push_back(*set);
  }
  return chosen;
}

}  // namespace farswap::placement
