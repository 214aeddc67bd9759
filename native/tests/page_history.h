// What each slot may hold while many threads write it at once.
//
// A clock, raised at the beginning and the end of each write and read, orders them. A write's page
// is out once a write that began after it had ended has itself ended; a read may see any page that
// was not out before it began, of a write that began before the read ended.
#pragma once

#include <array>
#include <atomic>
#include <cstring>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

#include "stamped_page.h"
#include "tier/page.h"

namespace farswap::tier {

class PageHistory {
 public:
  using Time = std::uint64_t;

  explicit PageHistory(SlotIndex slots) : slots_(slots) {}

  /// Announces a write of the slots with a stamp of its own, or of zeros (`stamp` 0).
  Time BeginWrite(SlotIndex first, std::size_t count, Stamp stamp) {
    const Time now = clock_.fetch_add(1);
    for (SlotIndex slot = first; slot < first + count; ++slot) {
      Slot& each = slots_[slot];
      const std::lock_guard lock(each.mutex);
      each.values.push_back({stamp, now, kNever, kNever});
    }
    return now;
  }
  /// A write that was refused may have left its page, zeros, or what was there before.
  void EndWrite(SlotIndex first, std::size_t count, Time began, bool refused = false) {
    const Time now = clock_.fetch_add(1);
    for (SlotIndex slot = first; slot < first + count; ++slot) {
      Slot& each = slots_[slot];
      const std::lock_guard lock(each.mutex);
      for (Value& value : each.values) {
        if (value.began == began) {
          value.ended = now;
        } else if (!refused && value.ended < began && value.out == kNever) {
          value.out = now;
        }
      }
      if (refused) each.values.push_back({0, began, now, kNever});
    }
  }
  /// A stamp that no other write has.
  Stamp NextStamp() { return stamp_.fetch_add(1); }

  Time BeginRead() { return clock_.fetch_add(1); }
  /// Whether a read that began then, and has ended, may have seen this page. Says what it may be.
  std::string Check(SlotIndex slot, Time read_began, const std::byte* page) {
    const Time now = clock_.fetch_add(1);
    Slot& each = slots_[slot];
    const std::lock_guard lock(each.mutex);
    std::string allowed;
    for (const Value& value : each.values) {
      if (value.out < read_began || value.began > now) continue;
      std::array<std::byte, kPageBytes> expected;
      FillStamped(slot, value.stamp, expected.data());
      if (std::memcmp(page, expected.data(), kPageBytes) == 0) return {};
      allowed += " " + std::to_string(value.stamp);
    }
    return "slot " + std::to_string(slot) + " holds " + Found(each, slot, page) + ", may hold" +
           allowed;
  }

 private:
  static constexpr Time kNever = std::numeric_limits<Time>::max();
  struct Value {
    Stamp stamp;
    Time began;
    Time ended;
    Time out;
  };
  struct Slot {
    std::mutex mutex;
    std::vector<Value> values{{0, 0, 0, kNever}};
  };

  static std::string Found(const Slot& each, SlotIndex slot, const std::byte* page) {
    for (const Value& value : each.values) {
      std::array<std::byte, kPageBytes> expected;
      FillStamped(slot, value.stamp, expected.data());
      if (std::memcmp(page, expected.data(), kPageBytes) == 0) {
        return std::to_string(value.stamp) + " (out)";
      }
    }
    return "what was never written there";
  }

  std::vector<Slot> slots_;
  std::atomic<Time> clock_{1};
  std::atomic<Stamp> stamp_{1};
};

}  // namespace farswap::tier
