// What a planner has its caller do, and how that ended.
#pragma once

#include <chrono>
#include <cstdint>

#include "placement/replica_set.h"

namespace farswap::placement {

/// Of any clock that only goes forward.
using Time = std::chrono::milliseconds;
using ShardIndex = std::uint32_t;

/// kDrop is void when the member is of the set again by the time that it is sent.
struct Action {
  enum class Kind : std::uint8_t { kSettle, kCopy, kCompare, kDrop };
  Kind kind;
  ShardIndex shard;
  MemberIndex member;            // that joins, or drops the shard
  MemberIndex source = member;   // of kCopy
  std::uint32_t generation = 0;  // of the shard's set; not of kDrop
  bool changes_only = false;     // kCopy: the member has an older copy
  std::uint64_t job = 0;
};

enum class ActionResult : std::uint8_t {
  kDone,
  kFailed,
  kLater,  // the member has no copy slot to grant; the next try comes after `retry_after`
};

}  // namespace farswap::placement
