// Shards that servers report as damaged: each is compared with another replica, and what is missing
// is copied. A report is kept, and answered in each heartbeat, until its server drops it.
//
// Any thread; its lock is a leaf.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "placement/planner.h"
#include "remote/members.h"

namespace farswap::remote {

class DamageReports {
 public:
  struct Report {
    std::uint64_t number = 0;
    std::uint64_t first = 0;  // shard
    std::uint64_t last = 0;
  };
  struct Compared {
    std::uint64_t number = 0;
    std::uint64_t copied_objects = 0;
  };
  struct Comparison {
    placement::ShardIndex shard = 0;
    MemberIndex member = kNoMember;
  };

  /// `shards`: of the device.
  explicit DamageReports(std::size_t shards) : shards_(shards) {}

  /// All reports of a member; returns whether one is new.
  bool Note(MemberIndex member, std::span<const Report> reports) {
    const std::lock_guard lock(mutex_);
    const auto dropped = [&](const Known& known) {
      return known.member == member &&
             std::ranges::find(reports, known.report.number, &Report::number) == reports.end();
    };
    std::erase_if(known_, dropped);
    bool any = false;
    for (const Report& report : reports) {
      if (Find(member, report.number)) continue;
      known_.push_back({.member = member, .report = report, .next = report.first});
      any = true;
    }
    return any;
  }
  /// Those of the member whose shards have all been compared.
  std::vector<Compared> ComparedOn(MemberIndex member) const {
    const std::lock_guard lock(mutex_);
    std::vector<Compared> compared;
    for (const Known& known : known_) {
      if (known.member == member && !Pending(known)) {
        compared.push_back({known.report.number, known.copied_objects});
      }
    }
    return compared;
  }

  /// The next shard to compare. One at a time, until End().
  std::optional<Comparison> Begin() {
    const std::lock_guard lock(mutex_);
    if (begun_) return std::nullopt;
    const auto first = std::ranges::find_if(known_, [&](const Known& it) { return Pending(it); });
    if (first == known_.end()) return std::nullopt;
    begun_ = *first;
    return Comparison{static_cast<placement::ShardIndex>(first->next), first->member};
  }
  /// `again`: it is compared later, after other reports.
  void End(bool again, std::uint64_t copied_objects) {
    const std::lock_guard lock(mutex_);
    Known* const known = Find(begun_->member, begun_->report.number);
    begun_.reset();
    if (!known) return;
    known->copied_objects += copied_objects;
    if (again) {
      const auto at = known_.begin() + (known - known_.data());
      std::rotate(at, at + 1, known_.end());
    } else {
      ++known->next;
    }
  }

 private:
  struct Known {
    MemberIndex member = kNoMember;
    Report report;
    std::uint64_t next = 0;  // shard to compare
    std::uint64_t copied_objects = 0;
  };

  bool Pending(const Known& known) const {
    return known.next <= known.report.last && known.next < shards_;
  }
  Known* Find(MemberIndex member, std::uint64_t number) {
    const auto found = std::ranges::find_if(known_, [&](const Known& known) {
      return known.member == member && known.report.number == number;
    });
    return found == known_.end() ? nullptr : &*found;
  }

  const std::size_t shards_;
  mutable std::mutex mutex_;  // guards all below
  std::vector<Known> known_;
  std::optional<Known> begun_;
};

}  // namespace farswap::remote
