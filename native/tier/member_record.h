// A memory server that shards are placed on, as the state keeps it: what a successor needs to find
// it again. Zero: free. Its number, which never changes, is its index in the state.
//
// The uuid is complete before `standing` is set. An address is written while `standing` names the
// other one.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace farswap::tier {

inline constexpr std::size_t kMembersMax = 4096;

struct MemberRecord {
  static constexpr std::size_t kAddressBytesMax = 263;

  enum class Standing : std::uint32_t {
    kFree,
    kGone,     // no shard is on its store
    kRemoved,  // by an operator
    kAtFirst,  // it was last at the first of the addresses
    kAtSecond,
  };

  std::array<std::byte, 16> uuid;  // of its store
  std::atomic<Standing> standing;
  std::array<std::array<char, kAddressBytesMax + 1>, 2> addresses;  // each ends with a zero
};

}  // namespace farswap::tier
