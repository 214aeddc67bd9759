// Which members keep a shard, in one 64-bit word that the data path reads without a lock.
//
//   bits 0..41    3 replicas, each a 12-bit member index and a 2-bit state
//   bit 42        untouched: there are stale replicas, and they lack nothing so far
//   bits 43..63   generation: raised by every change of a replica
//
//   none ──▶ joining ──▶ current ──▶ stale ──▶ joining
//              │            ▲                     (the others change; the word never grows)
//              ▼            │
//             none        placed: a shard without pages starts current everywhere
//
// A Put goes to joining and current replicas, a Get to current ones.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace farswap::placement {

/// A member never changes its index.
using MemberIndex = std::uint16_t;
inline constexpr std::size_t kMembersMax = 4096;

enum class ReplicaState : std::uint8_t {
  kNone,
  kJoining,  // being copied; takes Puts and Discards, serves no Get
  kCurrent,  // has every page of the shard
  kStale,    // away, or missed a Put or a Discard
};

inline const char* NameOf(ReplicaState state) {
  switch (state) {
    case ReplicaState::kNone:
      return "none";
    case ReplicaState::kJoining:
      return "joining";
    case ReplicaState::kCurrent:
      return "current";
    case ReplicaState::kStale:
      return "stale";
  }
  return "";
}

struct Replica {
  MemberIndex member = 0;
  ReplicaState state = ReplicaState::kNone;
  bool operator==(const Replica&) const = default;
};

/// A value. Replicas are packed: those in state none come last.
class ReplicaSet {
 public:
  static constexpr std::size_t kReplicasMax = 3;

  ReplicaSet() = default;
  explicit ReplicaSet(std::uint64_t word) : word_(word) {}
  std::uint64_t word() const { return word_; }
  bool operator==(const ReplicaSet&) const = default;

  Replica At(std::size_t index) const {
    const std::uint64_t bits = word_ >> (index * kReplicaBits);
    return {static_cast<MemberIndex>(bits & (kMembersMax - 1)),
            static_cast<ReplicaState>(bits >> kMemberBits & 3)};
  }
  std::array<Replica, kReplicasMax> All() const { return {At(0), At(1), At(2)}; }

  /// 21 bits; wraps, so that only equality means something.
  std::uint32_t generation() const { return static_cast<std::uint32_t>(word_ >> kGenerationShift); }

  std::size_t Count(ReplicaState state) const {
    std::size_t count = 0;
    for (const Replica& replica : All()) count += replica.state == state ? 1 : 0;
    return count;
  }
  /// Never placed, or every store that had it is gone.
  bool empty() const { return At(0).state == ReplicaState::kNone; }
  /// A Put or Discard clears it first.
  bool untouched() const { return (word_ & kUntouchedBit) != 0; }
  ReplicaSet Touched() const { return ReplicaSet(word_ & ~kUntouchedBit); }
  bool full() const { return At(kReplicasMax - 1).state != ReplicaState::kNone; }

  std::optional<ReplicaState> StateOf(MemberIndex member) const {
    for (const Replica& replica : All()) {
      if (replica.state != ReplicaState::kNone && replica.member == member) return replica.state;
    }
    return std::nullopt;
  }

  /// With another generation and the member's replica in this state: added when it is none of the
  /// set, taken out for kNone. The set is not full when one is added. A replica that becomes stale
  /// lacks something.
  ReplicaSet With(MemberIndex member, ReplicaState state) const {
    std::uint64_t word = (word_ >> kGenerationShift) + 1;
    word <<= kGenerationShift;
    std::size_t count = 0;
    bool seen = false;
    for (const Replica& replica : All()) {
      if (replica.state == ReplicaState::kNone) break;
      const bool its = replica.member == member;
      seen |= its;
      const Replica now{replica.member, its ? state : replica.state};
      if (now.state != ReplicaState::kNone) word |= Bits(now) << (count++ * kReplicaBits);
    }
    if (!seen && state != ReplicaState::kNone) {
      word |= Bits({member, state}) << (count * kReplicaBits);
    }
    const bool lacks = state == ReplicaState::kStale;
    const bool any_stale = ReplicaSet(word).Count(ReplicaState::kStale) > 0;
    return ReplicaSet(any_stale && !lacks ? word | (word_ & kUntouchedBit) : word);
  }
  /// With the replica of a member that goes away: stale, but it lacks nothing so far.
  ReplicaSet WithAway(MemberIndex member) const {
    const bool all = untouched() || Count(ReplicaState::kStale) == 0;
    const ReplicaSet set = With(member, ReplicaState::kStale);
    return all ? ReplicaSet(set.word_ | kUntouchedBit) : set;
  }

 private:
  static constexpr unsigned kMemberBits = 12;
  static constexpr unsigned kReplicaBits = kMemberBits + 2;
  static constexpr std::uint64_t kUntouchedBit = std::uint64_t{1} << (kReplicaBits * kReplicasMax);
  static constexpr unsigned kGenerationShift = kReplicaBits * kReplicasMax + 1;
  static_assert(kMembersMax == 1 << kMemberBits);

  static std::uint64_t Bits(Replica replica) {
    return replica.member | std::uint64_t{static_cast<std::uint8_t>(replica.state)} << kMemberBits;
  }

  std::uint64_t word_ = 0;
};

}  // namespace farswap::placement
