// A tier over a MemoryRemote, and pages whose content follows from (slot, generation).
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "awaited_io.h"
#include "hang_guard.h"
#include "memory_remote.h"
#include "stamped_page.h"
#include "tier/tier.h"

namespace farswap::tier {

using Page = std::array<std::byte, kPageBytes>;

/// Which kind the page of a slot and generation is: all kinds occur, most are compressible.
inline PageKind KindOf(SlotIndex slot, std::uint32_t generation) {
  switch ((slot * 7 + generation) % 10) {
    case 0:
      return PageKind::kZero;
    case 1:
      return PageKind::kSameFilled;
    case 2:
    case 3:
      return PageKind::kRandom;
    default:
      return PageKind::kCompressible;
  }
}

inline Page MakePage(SlotIndex slot, std::uint32_t generation, PageKind kind) {
  Page page;
  FillNumbered(kind, std::uint64_t{slot} << 32 | generation, page.data());
  return page;
}

inline Page MakePage(SlotIndex slot, std::uint32_t generation) {
  return MakePage(slot, generation, KindOf(slot, generation));
}

/// Letters without repetition: nothing for LZ4 to find, but fewer than 8 bits each.
inline Page PageOfLetters(std::uint64_t seed, unsigned letters) {
  std::mt19937_64 random(seed);
  Page page;
  for (std::byte& byte : page) byte = static_cast<std::byte>('A' + random() % letters);
  return page;
}

/// A page that shrinks to a half by itself, and to almost nothing beside one like it.
inline Page PageLikeItsNeighbours(SlotIndex slot, std::uint32_t generation) {
  Page page = MakePage(0, 0, PageKind::kRandom);
  std::fill(page.begin() + kPageBytes / 2, page.end(), std::byte{});
  std::memcpy(page.data(), &slot, sizeof(slot));
  std::memcpy(page.data() + sizeof(slot), &generation, sizeof(generation));
  return page;
}

/// The time that stores wait by. A test may stop it, and then alone lets it pass.
class StoreWaitClock {
 public:
  using Real = std::chrono::steady_clock;

  static Real::time_point Now() {
    const Real::duration stopped_at{stopped_at_.load()};
    return stopped_at == kRuns ? Real::now() : Real::time_point{stopped_at};
  }
  static void Run() { stopped_at_ = kRuns.count(); }
  static void Stop() { stopped_at_ = Real::now().time_since_epoch().count(); }
  static void Advance(Real::duration by) { stopped_at_ += by.count(); }

 private:
  static constexpr Real::duration kRuns{0};
  static inline std::atomic<Real::rep> stopped_at_{kRuns.count()};
};

class TierFixture : public ::testing::Test {
 protected:
  void Start(std::uint64_t slots = 16384, std::uint64_t pool_bytes = std::uint64_t{4} << 20,
             std::chrono::milliseconds store_wait = kHangGuard) {
    TierConfig config;
    config.slots = slots;
    config.pool_bytes_max = pool_bytes;
    config.store_wait = store_wait;
    config.now = &StoreWaitClock::Now;
    auto made = Tier::Create(config, &remote_);
    ASSERT_TRUE(made.ok()) << made.error().message;
    tier_ = std::move(made.value());
  }

  void TearDown() override {
    StoreWaitClock::Run();
    if (tier_ == nullptr) return;
    remote_.Release();
    tier_->StopWriteback();
    ExpectInvariants();
  }

  /// Lets time of the stopped clock pass, and the stores that wait find out.
  void LetPass(std::chrono::milliseconds time) {
    constexpr CgroupId kNobody = 999;
    StoreWaitClock::Advance(time);
    tier_->ConfigureCgroup(kNobody, {});  // whether or not there is room for it
  }

  void ExpectInvariants() {
    const TierStats stats = tier_->Stats();
    EXPECT_EQ(stats.pages.held(), Balance(stats.counters));
    std::uint64_t entry_bytes = 0;
    for (const GroupStats& group : tier_->CgroupStats()) {
      EXPECT_EQ(group.pages.held(), Balance(group.counters)) << "cgroup " << group.id;
      entry_bytes += group.pool_bytes;
    }
    EXPECT_EQ(entry_bytes, stats.pool_entry_bytes);
    EXPECT_LE(stats.pool_payload_bytes, stats.pool_entry_bytes);
    EXPECT_LE(stats.pool_entry_bytes, stats.pool_used_bytes);
    EXPECT_LE(stats.pool_used_bytes, stats.pool_limit_bytes);
  }

  /// Pages that must be there by what was counted.
  static std::uint64_t Balance(const CounterValues& counters) {
    const auto count = [&](Counter c) { return counters[static_cast<std::size_t>(c)]; };
    return count(Counter::stores) - count(Counter::overwrites) - count(Counter::trims) -
           count(Counter::early_frees) - count(Counter::lost_failed_store);
  }

  std::uint64_t Count(Counter counter) {
    return tier_->Stats().counters[static_cast<std::size_t>(counter)];
  }

  IoStatus Store(SlotIndex slot, std::uint32_t generation) {
    return StoreWait(*tier_, slot, MakePage(slot, generation).data());
  }

  IoStatus StoreKind(SlotIndex slot, std::uint32_t generation, PageKind kind) {
    return StoreWait(*tier_, slot, MakePage(slot, generation, kind).data());
  }

  /// The page, from pool or servers.
  Page Read(SlotIndex slot) {
    Page page{};
    EXPECT_EQ(LoadWait(*tier_, slot, page.data()), IoStatus::kOk) << "slot " << slot;
    return page;
  }

  std::string StateOf(SlotIndex slot) { return tier_->Explain(slot).state; }

  /// Moves the coldest pages to the remote store and waits for it.
  void WriteBack(std::uint64_t pages) {
    ASSERT_TRUE(tier_->StartManualWriteback({.bytes = pages * kPageBytes}));
    ASSERT_TRUE(Eventually([this] { return tier_->ManualWritebackProgress().finished; }));
  }

  MemoryRemote remote_;  // outlives the tier
  std::unique_ptr<Tier> tier_;
};

}  // namespace farswap::tier
