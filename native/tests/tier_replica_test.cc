// Objects with two replicas: the first one's answer is judged, and the other one's taken instead.
#include <gtest/gtest.h>

#include "tier/bundle.h"
#include "tier_fixture.h"

namespace farswap::tier {
namespace {

class TierReplicas : public TierFixture {
 protected:
  void Start() {
    TierFixture::Start();
    remote_.SetReplicated(true);
  }

  void Send(SlotIndex slot, std::uint32_t generation) {
    ASSERT_EQ(StoreKind(slot, generation, PageKind::kCompressible), IoStatus::kOk);
    WriteBack(1);
  }

  static Page Sent(SlotIndex slot, std::uint32_t generation) {
    return MakePage(slot, generation, PageKind::kCompressible);
  }

  void SendBundle(std::uint32_t generation) {
    ASSERT_TRUE(tier_->SetPacking(true).ok());
    for (SlotIndex slot = 0; slot < kBundleSlots; ++slot) {
      const Page page = PageLikeItsNeighbours(slot, generation);
      ASSERT_EQ(StoreWait(*tier_, slot, page.data()), IoStatus::kOk);
    }
    WriteBack(kBundleSlots);
    ASSERT_TRUE(remote_.Has(BundleKeyOf(0)));
  }

  // All of the bundle's pages in one read, two of them twice.
  void ExpectBundle(std::uint32_t generation) {
    std::vector<SlotIndex> slots = {3, 3, 15, 15};
    for (SlotIndex slot = 0; slot < kBundleSlots; ++slot) slots.push_back(slot);
    AwaitedFetch fetch(slots);
    tier_->Fetch(&fetch);
    ASSERT_EQ(fetch.Wait(), IoStatus::kOk);
    for (std::size_t i = 0; i < slots.size(); ++i) {
      EXPECT_EQ(fetch.pages[i], PageLikeItsNeighbours(slots[i], generation)) << i;
    }
  }
};

TEST_F(TierReplicas, AReadGetsTheRightPageWhereverAnObjectIsDamagedOrMissing) {
  Start();
  for (SlotIndex slot = 0; slot < 4; ++slot) Send(slot, 1);
  remote_.Damage(0);
  remote_.Truncate(1);
  remote_.Forget(2);
  AwaitedFetch fetch({0, 1, 2, 3});
  tier_->Fetch(&fetch);
  ASSERT_EQ(fetch.Wait(), IoStatus::kOk);
  for (SlotIndex slot = 0; slot < 4; ++slot) EXPECT_EQ(fetch.pages[slot], Sent(slot, 1));
  EXPECT_EQ(Count(Counter::fail_checksum), 1u);
  EXPECT_EQ(Count(Counter::decompress_fail), 1u);
  EXPECT_EQ(Count(Counter::fetch_missing), 0u);
  EXPECT_EQ(Count(Counter::loads_remote), 4u);
}

TEST_F(TierReplicas, AReplicaThatWentBackToAnOlderPageIsPassedOver) {
  Start();
  Send(0, 1);
  remote_.Remember(0);
  Send(0, 2);
  remote_.GoBack(0);
  EXPECT_EQ(Read(0), Sent(0, 2));
}

TEST_F(TierReplicas, BundlesAreJudgedByTheirPages) {
  Start();
  SendBundle(1);
  remote_.Remember(BundleKeyOf(0));
  SendBundle(2);
  remote_.GoBack(BundleKeyOf(0));
  ExpectBundle(2);
  SendBundle(3);
  remote_.Damage(BundleKeyOf(0));
  ExpectBundle(3);
  EXPECT_EQ(Count(Counter::fetch_missing), 0u);
}

TEST_F(TierReplicas, WhenAllAreRefusedTheReadFailsOnce) {
  Start();
  Send(0, 1);
  remote_.Remember(0);
  remote_.SetReplicated(false);
  Send(0, 2);
  remote_.GoBack(0);
  Page page{};
  EXPECT_EQ(LoadWait(*tier_, 0, page.data()), IoStatus::kIoError);
  EXPECT_EQ(page, Page{});
  EXPECT_EQ(Count(Counter::fetch_missing), 1u);
}

}  // namespace
}  // namespace farswap::tier
