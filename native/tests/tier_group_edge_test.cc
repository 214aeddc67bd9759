// Corners of groups and limits that the state machine of tests/property has found.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "awaited_io.h"
#include "tier/groups.h"
#include "tier_fixture.h"

namespace farswap::tier {
namespace {

using std::chrono::milliseconds;

class TierGroupEdge : public TierFixture {
 protected:
  static constexpr CgroupId kCgroup = 7;

  void StartWithLimit(milliseconds store_wait) {
    Start(16384, std::uint64_t{4} << 20, store_wait);
    ASSERT_TRUE(tier_->PlaceCgroup(kCgroup, kUnknownCgroup));
    ASSERT_TRUE(
        tier_->ConfigureCgroup(kCgroup, {.pool_limit_bytes = kGroupLimitMin, .compressor = {}}));
    tier_->SetLabel(kCgroup);
  }
  IoStatus TryStore(SlotIndex slot, AwaitedStore* store) {
    const Page page = MakePage(slot, 1, PageKind::kRandom);
    return tier_->TryStore(slot, page.data(), store);
  }
  // Its slot. The clock is stopped, and the puts are held.
  SlotIndex FillUntilOneIsRefused() {
    StoreWaitClock::Stop();
    remote_.HoldPuts();
    SlotIndex slot = 0;
    AwaitedStore refused;
    while (TryStore(slot, &refused) == IoStatus::kOk) ++slot;
    LetPass(kStoreWait);
    EXPECT_EQ(refused.Wait(), IoStatus::kNoSpace);
    return slot;
  }

  static constexpr milliseconds kStoreWait{3000};
};

TEST_F(TierGroupEdge, AStoreWaitsItsTimeAlthoughAnEarlierShortageIsNotLongOver) {
  StartWithLimit(kStoreWait);
  const SlotIndex end = FillUntilOneIsRefused();
  remote_.Release();
  ASSERT_TRUE(Eventually([this] { return Count(Counter::written_back_pages) > 0; }));
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.writing == 0; }));
  // Longer than a store waits, without any progress.
  LetPass(kStoreWait + milliseconds{1000});
  remote_.HoldPuts();
  const std::uint64_t hits = Count(Counter::cgroup_limit_hit);
  std::thread release([this, hits] {
    EXPECT_TRUE(Eventually([&] { return Count(Counter::cgroup_limit_hit) > hits; }));
    remote_.Release();
  });
  for (SlotIndex slot = end; slot < end + 100; ++slot) {
    EXPECT_EQ(StoreKind(slot, 1, PageKind::kRandom), IoStatus::kOk) << slot;
  }
  release.join();
  EXPECT_GT(Count(Counter::cgroup_limit_hit), hits);
}

TEST_F(TierGroupEdge, StoresAreRefusedAtOnceWhileOneShortageGoesOn) {
  StartWithLimit(milliseconds{30});
  remote_.HoldPuts();
  SlotIndex slot = 0;
  while (StoreKind(slot, 1, PageKind::kRandom) == IoStatus::kOk) ++slot;
  StoreWaitClock::Stop();  // the shortage goes on however long the test takes
  for (const SlotIndex end = slot + 100; slot < end; ++slot) {
    AwaitedStore refused;
    EXPECT_EQ(TryStore(slot, &refused), IoStatus::kNoSpace);
  }
}

// The group that is made for it is one that another cgroup had.
TEST_F(TierGroupEdge, ANewCgroupsShortageIsNotThatOfOneThatIsGone) {
  constexpr CgroupId kNewCgroup = 8, kFirstIdle = 1000;
  StartWithLimit(kStoreWait);
  constexpr std::size_t kOthers = Groups::kGroupsMax - 2;  // without the root group
  for (CgroupId id = kFirstIdle; id < kFirstIdle + kOthers; ++id) {
    tier_->SetLabel(id);
    ASSERT_EQ(StoreKind(0, 1, PageKind::kSameFilled), IoStatus::kOk);
  }
  tier_->SetLabel(kCgroup);
  SlotIndex slot = FillUntilOneIsRefused();
  tier_->RemoveCgroup(kCgroup);
  ASSERT_TRUE(Eventually([this] { return tier_->PlaceCgroup(kNewCgroup, kUnknownCgroup); }));
  tier_->ConfigureCgroup(kNewCgroup, {.pool_limit_bytes = kGroupLimitMin, .compressor = {}});
  tier_->SetLabel(kNewCgroup);
  AwaitedStore store;
  IoStatus status = IoStatus::kOk;
  for (; status == IoStatus::kOk; ++slot) status = TryStore(slot, &store);
  ASSERT_EQ(status, IoStatus::kPending);
  remote_.Release();
  EXPECT_EQ(store.Wait(), IoStatus::kOk);
}

TEST_F(TierGroupEdge, AJobForACgroupThatIsGoneTouchesNothing) {
  Start();
  ASSERT_TRUE(tier_->PlaceCgroup(kCgroup, kUnknownCgroup));
  tier_->SetLabel(kCgroup);
  for (SlotIndex slot = 0; slot < 20; ++slot) StoreKind(slot, 1, PageKind::kCompressible);
  tier_->RemoveCgroup(kCgroup);
  ASSERT_TRUE(tier_->StartManualWriteback({.bytes = 20 * kPageBytes, .cgroup = kCgroup}));
  ASSERT_TRUE(Eventually([this] { return tier_->ManualWritebackProgress().finished; }));
  tier_->WriteBackProactively(kCgroup, 20, 0);
  tier_->WriteBackProactively(kUnknownCgroup, 1, 0);  // served after it
  ASSERT_TRUE(Eventually([this] { return remote_.pages() > 0; }));
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.writing == 0; }));
  EXPECT_EQ(remote_.pages(), 1u) << "its pages are the parent's now, which was not requested";
}

TEST_F(TierGroupEdge, OnlyStoresOfWhichNobodySaysWhoseTheyAreCountAsUnattributed) {
  Start();
  std::vector<std::atomic<SlotWord>> words(16384);
  tier_->UseSlotWords(words.data());
  ASSERT_TRUE(tier_->PlaceCgroup(kCgroup, kUnknownCgroup));
  tier_->RemoveCgroup(kCgroup);
  words[0].store(SlotWord{kCgroup} << 32 | 2);
  StoreKind(0, 1, PageKind::kRandom);  // the root group's, since the cgroup is gone
  EXPECT_EQ(Count(Counter::stores_unattributed), 0u);
  words[1].store(2);
  StoreKind(1, 1, PageKind::kRandom);
  StoreKind(2, 1, PageKind::kRandom);
  EXPECT_EQ(Count(Counter::stores_unattributed), 2u);
  tier_->UseSlotWords(nullptr);
}

TEST_F(TierGroupEdge, AnEntryCountsWithWhatItTakesAlsoWhereALargerClassHelpedOut) {
  Start(16384, std::uint64_t{4} << 20, std::chrono::milliseconds{50});
  remote_.SetWritable(false);
  tier_->SetLabel(kCgroup);
  // Zeros behind so many random bytes.
  const auto store = [this](SlotIndex slot, std::size_t bytes) {
    Page page = MakePage(slot, 1, PageKind::kRandom);
    std::fill(page.begin() + static_cast<std::ptrdiff_t>(bytes), page.end(), std::byte{0});
    return StoreWait(*tier_, slot, page.data());
  };
  SlotIndex slot = 0;
  while (store(slot, 2000) == IoStatus::kOk) ++slot;
  tier_->Invalidate(10, 1);
  ASSERT_EQ(store(slot, 1800), IoStatus::kOk) << "in the larger entry";
  ExpectInvariants();
}

}  // namespace
}  // namespace farswap::tier
