// How the shards of a volume are placed, for operators.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "placement/planner.h"

namespace farswap::remote {

struct PlacementInfo {
  std::size_t replicas;            // wanted of each shard
  std::string spread{};            // the label in which the replicas of a page differ
  std::size_t domains;             // failure domains of the members with a store
  std::uint32_t debt;              // shards with fewer current ones
  std::uint32_t lost;              // shards whose last current replica was on a store that is gone
  std::uint32_t crowded;           // shards with two replicas in one failure domain
  std::size_t copies;              // replicas that are being made
  std::uint32_t here;              // replicas on the member that was asked for
  std::uint64_t repaired_objects;  // that a current replica lacked or had damaged
  std::uint64_t failed_repairs;    // of objects
  std::uint64_t missing_pages;     // that no replica of their shard has
  std::vector<placement::AwayMember> away;
};

}  // namespace farswap::remote
