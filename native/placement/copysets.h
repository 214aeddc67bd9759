// Which members may keep the replicas of one shard together.
//
// With replicas on random servers, any few servers that are lost at once hold all replicas of some
// shard. With few distinct sets of servers, most losses of a few at once lose nothing, and one that
// does loses more: far fewer incidents for the same mean (A. Cidon et al., Copysets: Reducing the
// Frequency of Data Loss in Cloud Storage, USENIX ATC 2013).
//
// Every host derives the same sets from the list of members: each member leads `width` sets, and
// takes as company those whose hash with it is highest, each from another failure domain. So a
// member that comes or goes changes only the sets that it is in. A host uses the sets that rank
// highest by their hash with the host, until they have `fanout` members.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "placement/replica_set.h"

namespace farswap::placement {

/// A 64-bit mix of two numbers, the same on every host.
std::uint64_t HashOf(std::uint64_t first, std::uint64_t second);

struct Peer {
  MemberIndex member;
  std::uint64_t id;      // of the member: a hash of its uuid
  std::uint32_t domain;  // failure domain
};

/// The members that a shard's replicas may be on together; `count` of them.
struct Copyset {
  std::array<MemberIndex, ReplicaSet::kReplicasMax> members{};
  std::size_t count = 0;
  std::uint64_t id = 0;

  std::span<const MemberIndex> All() const { return std::span(members).first(count); }
};

/// All copysets of these members. Sets are smaller than `replicas` when there are fewer domains.
std::vector<Copyset> MakeCopysets(std::span<const Peer> peers, std::size_t replicas,
                                  std::size_t width);

/// Those that a host uses, best first. At least one, if there is any.
std::vector<Copyset> CopysetsOf(std::uint64_t host, std::span<const Copyset> copysets,
                                std::size_t fanout);

}  // namespace farswap::placement
