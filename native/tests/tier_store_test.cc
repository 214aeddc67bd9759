// Stores, loads and trims of pages that are local.
#include <gtest/gtest.h>

#include "tier_fixture.h"

namespace farswap::tier {
namespace {

class TierStore : public TierFixture {};

TEST_F(TierStore, ASlotNeverWrittenReadsAsZeros) {
  Start();
  EXPECT_EQ(Read(7), Page{});
  EXPECT_EQ(StateOf(7), "empty");
}

TEST_F(TierStore, EveryKindOfPageIsReadBack) {
  Start();
  for (SlotIndex slot = 0; slot < 500; ++slot) ASSERT_EQ(Store(slot, 1), IoStatus::kOk);
  for (SlotIndex slot = 0; slot < 500; ++slot) ASSERT_EQ(Read(slot), MakePage(slot, 1));
}

TEST_F(TierStore, TheNewestStoreWins) {
  Start();
  for (std::uint32_t generation = 0; generation < 50; ++generation) {
    ASSERT_EQ(Store(3, generation), IoStatus::kOk);
    ASSERT_EQ(Read(3), MakePage(3, generation));
  }
  EXPECT_EQ(Count(Counter::overwrites), 49u);
}

TEST_F(TierStore, ZeroPagesTakeNoPoolMemory) {
  Start();
  for (SlotIndex slot = 0; slot < 100; ++slot) StoreKind(slot, 1, PageKind::kZero);
  for (SlotIndex slot = 100; slot < 200; ++slot) StoreKind(slot, 1, PageKind::kSameFilled);
  EXPECT_EQ(tier_->Stats().pool_entry_bytes, 0u);
  EXPECT_EQ(tier_->Stats().pages.same_filled, 200u);
  EXPECT_EQ(Read(150), MakePage(150, 1, PageKind::kSameFilled));
}

TEST_F(TierStore, IncompressiblePagesAreKeptRawAndCounted) {
  Start();
  StoreKind(1, 1, PageKind::kRandom);
  EXPECT_EQ(tier_->Stats().pages.raw, 1u);
  EXPECT_EQ(Count(Counter::stores_raw), 1u);
  EXPECT_EQ(Read(1), MakePage(1, 1, PageKind::kRandom));
  StoreKind(1, 2, PageKind::kCompressible);
  EXPECT_EQ(tier_->Stats().pages.raw, 0u);
}

TEST_F(TierStore, TrimmedPagesReadAsZerosAndFreeTheirMemory) {
  Start();
  for (SlotIndex slot = 0; slot < 100; ++slot) StoreKind(slot, 1, PageKind::kCompressible);
  tier_->Invalidate(10, 50);
  EXPECT_EQ(Read(9), MakePage(9, 1, PageKind::kCompressible));
  EXPECT_EQ(Read(10), Page{});
  EXPECT_EQ(Read(59), Page{});
  EXPECT_EQ(Read(60), MakePage(60, 1, PageKind::kCompressible));
  EXPECT_EQ(Count(Counter::trims), 50u);
  tier_->Invalidate(0, tier_->slots());
  EXPECT_EQ(tier_->Stats().pool_entry_bytes, 0u);
  EXPECT_EQ(Count(Counter::trims), 100u);
}

TEST_F(TierStore, AReadNeverDropsThePage) {
  Start();
  StoreKind(4, 1, PageKind::kCompressible);
  for (int i = 0; i < 10; ++i) ASSERT_EQ(Read(4), MakePage(4, 1, PageKind::kCompressible));
  EXPECT_EQ(StateOf(4), "local");
}

TEST_F(TierStore, AFullPoolRefusesAndForgetsTheStalePage) {
  Start(16384, std::uint64_t{4} << 20, kStoreWait);
  remote_.SetWritable(false);
  EXPECT_GT(FillUntilOneIsRefused(), 900u);
  EXPECT_EQ(Count(Counter::reject_reclaim_fail), 1u);
  // The slot's earlier page is stale now, also if the new bytes are not stored.
  EXPECT_EQ(StoreKind(0, 2, PageKind::kRandom), IoStatus::kNoSpace);
  EXPECT_EQ(Read(0), Page{});
  EXPECT_EQ(Count(Counter::lost_failed_store), 1u);
  EXPECT_EQ(Read(1), MakePage(1, 1, PageKind::kRandom));
}

TEST_F(TierStore, WaitingForRoomIsBoundedOverAllStoresOfOneShortage) {
  Start(16384, std::uint64_t{4} << 20, kStoreWait);
  remote_.SetWritable(false);
  ExpectRefusedAtOnce(FillUntilOneIsRefused());
}

TEST_F(TierStore, ExplainReportsWhereAPageIs) {
  Start();
  StoreKind(1, 1, PageKind::kSameFilled);
  StoreKind(2, 1, PageKind::kCompressible);
  StoreKind(2, 2, PageKind::kCompressible);
  const Explanation same = tier_->Explain(1);
  EXPECT_STREQ(same.state, "same_filled");
  EXPECT_NE(same.fill, 0u);
  const Explanation local = tier_->Explain(2);
  EXPECT_STREQ(local.state, "local");
  EXPECT_EQ(local.version, 2u);
  EXPECT_EQ(local.codec, Codec::kLz4);
  EXPECT_GT(local.size_bytes, 0u);
  EXPECT_GT(local.stored_boot_s, 0u);
  EXPECT_TRUE(local.verified);
}

}  // namespace
}  // namespace farswap::tier
