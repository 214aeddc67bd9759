// Limits of cgroups and of the pool, and shortages of room at a cgroup's limit.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tier/groups.h"
#include "tier_fixture.h"

namespace farswap::tier {
namespace {

using std::chrono::milliseconds;

constexpr CgroupId kA = 101;
constexpr CgroupId kB = 102;
constexpr CgroupId kChild = 103;

class TierLimit : public TierFixture {
 protected:
  void StartWithLimit() {
    Start(16384, std::uint64_t{4} << 20, kStoreWait);
    ASSERT_TRUE(tier_->PlaceCgroup(kA, kUnknownCgroup));
    ASSERT_TRUE(tier_->ConfigureCgroup(kA, {.pool_limit_bytes = kGroupLimitMin, .compressor = {}}));
    tier_->SetLabel(kA);
  }
};

TEST_F(TierLimit, AtItsLimitACgroupsOwnPagesMakeRoom) {
  StartWithWords();
  GroupSettings settings;
  settings.pool_limit_bytes = kGroupLimitMin;
  ASSERT_TRUE(tier_->ConfigureCgroup(kA, settings));
  for (SlotIndex slot = 0; slot < 40; ++slot) SwapOut(slot, kB, 1, PageKind::kRandom);
  for (SlotIndex slot = 100; slot < 300; ++slot) {
    ASSERT_EQ(SwapOut(slot, kA, 1, PageKind::kRandom), IoStatus::kOk);
    EXPECT_LE(GroupOf(kA).pool_bytes, kGroupLimitMin);
  }
  EXPECT_EQ(GroupOf(kB).pages.local, 40u) << "another's limit pushed these out";
  EXPECT_GT(CountOf(kA, Counter::writeback_started_cgroup_limit), 0u);
  EXPECT_EQ(Count(Counter::writeback_started_limit), 0u);
  for (SlotIndex slot = 100; slot < 300; ++slot) {
    EXPECT_EQ(Read(slot), MakePage(slot, 1, PageKind::kRandom));
  }
}

TEST_F(TierLimit, ALimitHoldsForDescendantsTogether) {
  StartWithWords();
  GroupSettings settings;
  settings.pool_limit_bytes = kGroupLimitMin;
  ASSERT_TRUE(tier_->PlaceCgroup(kA, kUnknownCgroup));
  ASSERT_TRUE(tier_->ConfigureCgroup(kA, settings));
  ASSERT_TRUE(tier_->PlaceCgroup(kChild, kA));
  ASSERT_TRUE(tier_->PlaceCgroup(kB, kA));
  for (SlotIndex slot = 0; slot < 200; ++slot) {
    ASSERT_EQ(SwapOut(slot, slot % 2 ? kChild : kB, 1, PageKind::kRandom), IoStatus::kOk);
    EXPECT_LE(GroupOf(kA).tree_pool_bytes, kGroupLimitMin + 2 * 4112);
  }
  EXPECT_GT(GroupOf(kChild).pages.remote, 0u);
  EXPECT_GT(GroupOf(kB).pages.remote, 0u);
}

TEST_F(TierLimit, WithWritebackOffNothingLeavesAndTheLimitRefuses) {
  StartWithWords();
  GroupSettings settings;
  settings.pool_limit_bytes = kGroupLimitMin;
  settings.writeback = false;
  ASSERT_TRUE(tier_->PlaceCgroup(kA, kUnknownCgroup));
  ASSERT_TRUE(tier_->ConfigureCgroup(kA, settings));
  ASSERT_TRUE(tier_->PlaceCgroup(kChild, kA));
  SlotIndex slot = 0;
  while (SwapOut(slot, kChild, 1, PageKind::kRandom) == IoStatus::kOk) ++slot;
  EXPECT_GT(slot, 50u);
  EXPECT_LT(slot, 70u);
  EXPECT_EQ(CountOf(kChild, Counter::reject_cgroup_limit), 1u);
  WriteBack(1000);
  EXPECT_EQ(remote_.pages(), 0u);
  for (SlotIndex kept = 0; kept < slot; ++kept) {
    EXPECT_EQ(Read(kept), MakePage(kept, 1, PageKind::kRandom));
  }
}

TEST_F(TierLimit, ARemoteQuotaKeepsTheRestInThePool) {
  StartWithWords();
  GroupSettings settings;
  settings.remote_pages_max = 10;
  ASSERT_TRUE(tier_->ConfigureCgroup(kA, settings));
  for (SlotIndex slot = 0; slot < 50; ++slot) SwapOut(slot, kA);
  WriteBack(50);
  EXPECT_EQ(GroupOf(kA).pages.remote, 10u);
  EXPECT_EQ(GroupOf(kA).pages.local, 40u);
  tier_->Invalidate(0, 5);
  WriteBack(50);
  EXPECT_EQ(GroupOf(kA).pages.remote, 10u) << "what was trimmed made room";
}

TEST_F(TierLimit, AtThePoolsLimitAllGiveInProportion) {
  StartWithWords(16384, 8 << 20);
  // Three quarters A, one quarter B, in turn, far more than the pool holds.
  for (SlotIndex slot = 0; slot < 8000; ++slot) {
    ASSERT_EQ(SwapOut(slot, slot % 4 ? kA : kB, 1, PageKind::kRandom), IoStatus::kOk);
  }
  ASSERT_TRUE(Eventually([&] { return !tier_->Stats().shrinking; }));
  const auto a = static_cast<double>(GroupOf(kA).pages.local);
  const auto b = static_cast<double>(GroupOf(kB).pages.local);
  EXPECT_NEAR(a / b, 3.0, 0.4);
}

TEST_F(TierLimit, LimitsOfThePoolChangeAtRunTime) {
  StartWithWords(16384, 16 << 20);
  for (SlotIndex slot = 0; slot < 3000; ++slot) SwapOut(slot, kA, 1, PageKind::kRandom);
  EXPECT_FALSE(tier_->SetLimits(32 << 20, 90).ok());
  EXPECT_FALSE(tier_->SetLimits(8 << 20, 0).ok());
  ASSERT_TRUE(tier_->SetLimits(4 << 20, 80).ok());
  EXPECT_TRUE(Eventually([&] { return tier_->Stats().pool_used_bytes <= 4u << 20; }));
  EXPECT_EQ(tier_->Stats().accept_threshold_percent, 80u);
  ASSERT_TRUE(tier_->SetLimits(16 << 20, 90).ok());
  for (SlotIndex slot = 3000; slot < 5000; ++slot) SwapOut(slot, kA, 1, PageKind::kRandom);
  EXPECT_GT(tier_->Stats().pool_used_bytes, 8u << 20);
}

// --- Shortages

TEST_F(TierLimit, AStoreWaitsItsTimeAlthoughAnEarlierShortageIsNotLongOver) {
  StartWithLimit();
  remote_.HoldPuts();
  const SlotIndex end = FillUntilOneIsRefused();
  remote_.Release();
  ASSERT_TRUE(Eventually([this] { return Count(Counter::written_back_pages) > 0; }));
  AwaitAnswers();
  // Longer than a store waits, without any progress.
  LetPass(config_.store_wait + milliseconds{1000});
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

TEST_F(TierLimit, StoresAreRefusedAtOnceWhileOneShortageGoesOn) {
  StartWithLimit();
  remote_.HoldPuts();
  ExpectRefusedAtOnce(FillUntilOneIsRefused());
}

// The group that is made for it is one that another cgroup had.
TEST_F(TierLimit, ANewCgroupsShortageIsNotThatOfOneThatIsGone) {
  constexpr CgroupId kNewCgroup = 8, kFirstIdle = 1000;
  StartWithLimit();
  constexpr std::size_t kOthers = Groups::kGroupsMax - 2;  // without the root group
  for (CgroupId id = kFirstIdle; id < kFirstIdle + kOthers; ++id) {
    tier_->SetLabel(id);
    ASSERT_EQ(StoreKind(0, 1, PageKind::kSameFilled), IoStatus::kOk);
  }
  tier_->SetLabel(kA);
  remote_.HoldPuts();
  SlotIndex slot = FillUntilOneIsRefused();
  tier_->RemoveCgroup(kA);
  ASSERT_TRUE(Eventually([this] { return tier_->PlaceCgroup(kNewCgroup, kUnknownCgroup); }));
  tier_->ConfigureCgroup(kNewCgroup, {.pool_limit_bytes = kGroupLimitMin, .compressor = {}});
  tier_->SetLabel(kNewCgroup);
  AwaitedStore store;
  IoStatus status = IoStatus::kOk;
  for (; status == IoStatus::kOk; ++slot) status = TryStore(slot, PageKind::kRandom, &store);
  ASSERT_EQ(status, IoStatus::kPending);
  remote_.Release();
  EXPECT_EQ(store.Wait(), IoStatus::kOk);
}

TEST_F(TierLimit, AnEntryCountsWithWhatItTakesAlsoWhereALargerClassHelpedOut) {
  Start(16384, std::uint64_t{4} << 20, std::chrono::milliseconds{50});
  remote_.SetWritable(false);
  tier_->SetLabel(kA);
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
