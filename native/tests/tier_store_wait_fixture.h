// A tier in which stores wait: servers take nothing, and the pool or a cgroup is full.
#pragma once

#include "tier_fixture.h"

namespace farswap::tier {

inline constexpr CgroupId kFull = 7;
inline constexpr CgroupId kOther = 8;
inline constexpr SlotIndex kFirstNew = 8000;  // no page is there
inline constexpr SlotIndex kSmall = 15000;    // its page lets the pool have room of its size

// The servers take nothing, and there is no room: in the pool, or at the limit of a cgroup.
class WaitingStoreFixture : public TierFixture {
 protected:
  explicit WaitingStoreFixture(bool at_limit) : at_limit_(at_limit) {}

  void Fill(std::chrono::milliseconds store_wait = kHangGuard) {
    Start(16384, kPoolBytes, store_wait);
    SetPoolLimit(kPoolBytes / 2);
    ASSERT_TRUE(tier_->PlaceCgroup(kFull, kUnknownCgroup));
    ASSERT_TRUE(tier_->PlaceCgroup(kOther, kUnknownCgroup));
    if (at_limit_) Limit(kGroupLimitMin);
    remote_.SetWritable(false);
    tier_->SetLabel(kFull);
    if (!at_limit_) {
      ASSERT_EQ(StoreKind(kSmall, 1, PageKind::kCompressible), IoStatus::kOk);
    }
    while (TryStore(end_, PageKind::kRandom, nullptr) == IoStatus::kOk) ++end_;
    EXPECT_EQ(WaitsCounted(), 0u) << "nothing was done";
  }
  void FillAndStopTheClock() {
    Fill(kStoreWait);
    StoreWaitClock::Stop();
  }
  void Limit(std::uint64_t bytes, bool writeback = true) {
    ASSERT_TRUE(tier_->ConfigureCgroup(
        kFull, {.pool_limit_bytes = bytes, .writeback = writeback, .compressor = {}}));
  }
  // A store that waits, of a page that takes what a page can take.
  void Wait(SlotIndex slot, AwaitedStore* store, std::uint32_t generation = 1) {
    ASSERT_EQ(TryStore(slot, PageKind::kRandom, store, generation), IoStatus::kPending);
  }
  // The thread has retried the waiting stores since, without success.
  void LetItBeTried() {
    for (int i = 0; i < 2; ++i) {
      AwaitedStore superseded;
      Wait(kFirstNew + 1, &superseded);
      tier_->Invalidate(kFirstNew + 1, 1);
      ASSERT_EQ(superseded.Wait(), IoStatus::kOk);
    }
  }
  Page Stored(SlotIndex slot, std::uint32_t generation = 1) {
    return MakePage(slot, generation, PageKind::kRandom);
  }
  std::uint64_t WaitsCounted() {
    return Count(at_limit_ ? Counter::cgroup_limit_hit : Counter::pool_limit_hit);
  }
  std::uint64_t Refused() {
    return Count(at_limit_ ? Counter::reject_cgroup_limit : Counter::reject_reclaim_fail);
  }
  // Ends a wait by something else than writeback.
  void ExpectStored(AwaitedStore* store, SlotIndex slot) {
    EXPECT_EQ(store->Wait(), IoStatus::kOk);
    EXPECT_EQ(Read(slot), Stored(slot));
    EXPECT_EQ(Count(Counter::written_back_pages), 0u);
  }

  static constexpr std::uint64_t kPoolBytes = std::uint64_t{8} << 20;
  const bool at_limit_;
  SlotIndex end_ = 0;
};

class WaitingStore : public WaitingStoreFixture, public ::testing::WithParamInterface<bool> {
 protected:
  WaitingStore() : WaitingStoreFixture(/*at_limit=*/GetParam()) {}
};

class WaitingStoreInThePool : public WaitingStoreFixture {
 protected:
  WaitingStoreInThePool() : WaitingStoreFixture(/*at_limit=*/false) {}
};

class WaitingStoreAtALimit : public WaitingStoreFixture {
 protected:
  WaitingStoreAtALimit() : WaitingStoreFixture(/*at_limit=*/true) {}
};

}  // namespace farswap::tier
