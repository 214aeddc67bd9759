// Objects that one current replica lacks or has damaged, and another one has: to be copied from
// that. Bounded, without duplicates; what finds no room is reported again by its next read. Any
// thread; its lock is a leaf, and Add() allocates nothing.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "placement/planner.h"
#include "remote/members.h"
#include "tier/page.h"

namespace farswap::remote {

class RepairQueue {
 public:
  static constexpr std::size_t kObjectsMax = 1024;

  struct Object {
    tier::ObjectKey key;
    MemberIndex member;  // to be repaired
    MemberIndex source;  // kNoMember: any other current replica
  };
  /// Objects of one shard, with one member and source.
  struct Batch {
    placement::ShardIndex shard;
    MemberIndex member;
    MemberIndex source;
    std::vector<std::uint64_t> keys;
  };

  void Add(const Object& object) {
    const std::lock_guard lock(mutex_);
    const auto known = [&](const Object& other) {
      return other.key == object.key && other.member == object.member;
    };
    if (count_ == kObjectsMax || std::ranges::any_of(Known(), known)) return;
    objects_[count_++] = object;
  }

  /// The oldest object and those that go with it. One batch at a time: until End(), its objects
  /// count as known.
  std::optional<Batch> Begin() {
    const std::lock_guard lock(mutex_);
    if (taken_ > 0 || count_ == 0) return std::nullopt;
    const Object first = objects_[0];
    const auto together = [&](const Object& other) {
      return ShardOf(other) == ShardOf(first) && other.member == first.member &&
             other.source == first.source;
    };
    const auto known = Known();
    const auto others = std::stable_partition(known.begin(), known.end(), together);
    taken_ = static_cast<std::size_t>(others - known.begin());
    Batch batch{ShardOf(first), first.member, first.source, {}};
    for (const Object& object : Known().first(taken_)) batch.keys.push_back(object.key);
    return batch;
  }

  /// The batch has ended. `again`: its objects stay in the queue.
  void End(bool again) {
    const std::lock_guard lock(mutex_);
    if (!again) {
      std::ranges::copy(Known().subspan(taken_), objects_.begin());
      count_ -= taken_;
    }
    taken_ = 0;
  }

 private:
  static placement::ShardIndex ShardOf(const Object& object) {
    return static_cast<placement::ShardIndex>(tier::FirstSlotOf(object.key) / tier::kShardSlots);
  }
  std::span<Object> Known() { return std::span(objects_).first(count_); }

  std::mutex mutex_;                         // guards all below
  std::array<Object, kObjectsMax> objects_;  // those taken, then others, oldest first
  std::size_t count_ = 0;
  std::size_t taken_ = 0;
};

}  // namespace farswap::remote
