// Pages of bundles that are read, and their neighbours that come into the pool with them.
#include "tier_packing_fixture.h"

namespace farswap::tier {
namespace {

class TierBundleFetch : public TierPacking {};

TEST_F(TierBundleFetch, BundlesAreReadAfterPackingWasSwitchedOff) {
  StartPacking();
  SendBundle();
  ASSERT_TRUE(tier_->SetPacking(false).ok());
  ExpectBundle(1);
  StoreBundle(2);
  WriteBack(kBundleSlots);
  EXPECT_TRUE(Eventually([this] { return !remote_.Has(kKey); }));
  ExpectBundle(2);
}

TEST_F(TierBundleFetch, PageInOfOneTakesTheOthersInAsClean) {
  StartPacking();
  AdoptNeighbours();
  EXPECT_EQ(Count(Counter::neighbours_adopted), kBundleSlots - 1);
  EXPECT_EQ(StateOf(kFirst + 1), "clean");
  const std::size_t asked = remote_.objects_asked_for();
  for (SlotIndex slot = kFirst + 2; slot < kEnd; ++slot) ExpectPage(slot, 1);
  EXPECT_EQ(remote_.objects_asked_for(), asked);
  EXPECT_EQ(Count(Counter::neighbour_hits), kBundleSlots - 1);
  EXPECT_EQ(Count(Counter::loads_remote), 1u);
}

TEST_F(TierBundleFetch, PagesOfOneReadShareOneFetchOfTheirBundle) {
  StartPacking();
  SendBundle();
  StorePage(kEnd, 1);
  AwaitedFetch fetch({kFirst + 7, kEnd, kFirst + 3, 9, kFirst + 4, kFirst + 3});
  tier_->Fetch(&fetch);
  ASSERT_EQ(fetch.Wait(), IoStatus::kOk);
  EXPECT_EQ(fetch.pages[0], PageLikeItsNeighbours(kFirst + 7, 1));
  EXPECT_EQ(fetch.pages[1], PageLikeItsNeighbours(kEnd, 1));
  EXPECT_EQ(fetch.pages[2], PageLikeItsNeighbours(kFirst + 3, 1));
  EXPECT_EQ(fetch.pages[3], Page{});
  EXPECT_EQ(fetch.pages[4], PageLikeItsNeighbours(kFirst + 4, 1));
  EXPECT_EQ(fetch.pages[5], PageLikeItsNeighbours(kFirst + 3, 1));
  EXPECT_EQ(remote_.objects_asked_for(), 1u);
  EXPECT_TRUE(
      Eventually([this] { return Count(Counter::neighbours_adopted) == kBundleSlots - 3; }));
}

TEST_F(TierBundleFetch, SeveralBundlesAndPagesCanBeReadAtOnce) {
  StartPacking();
  std::vector<SlotIndex> slots;
  for (SlotIndex slot = 0; slot < 64; slot += 2) {
    StorePage(slot, 1);
    slots.push_back(slot);
  }
  ASSERT_EQ(StoreKind(1, 1, PageKind::kRandom), IoStatus::kOk);
  WriteBack(slots.size() + 1);
  EXPECT_EQ(remote_.pages(), 4u);
  slots.push_back(1);
  AwaitedFetch fetch(slots);
  tier_->Fetch(&fetch);
  ASSERT_EQ(fetch.Wait(), IoStatus::kOk);
  for (std::size_t i = 0; i + 1 < slots.size(); ++i) {
    EXPECT_EQ(fetch.pages[i], PageLikeItsNeighbours(slots[i], 1));
  }
  EXPECT_EQ(fetch.pages.back(), MakePage(1, 1, PageKind::kRandom));
}

// Some of them after it was seen that they are wanted, and before they are there.
TEST_F(TierBundleFetch, PagesOverwrittenWhileTheyAreTakenInAreTheNewOnes) {
  StartPacking();
  for (std::uint32_t round = 0; round < 500; ++round) {
    StoreBundle(2 * round);
    WriteBack(kBundleSlots);
    AwaitedFetch fetch({kFirst});
    tier_->Fetch(&fetch);
    ASSERT_EQ(fetch.Wait(), IoStatus::kOk);
    StoreBundle(2 * round + 1);
    ExpectBundle(2 * round + 1);
  }
}

TEST_F(TierBundleFetch, CleanEntriesAreDroppedWithoutAnythingBeingSent) {
  StartPacking();
  AdoptNeighbours();
  const std::uint64_t written = Count(Counter::written_back_pages);
  WriteBack(kBundleSlots);
  EXPECT_EQ(Count(Counter::clean_dropped), kBundleSlots - 1);
  EXPECT_EQ(Count(Counter::written_back_pages), written);
  EXPECT_EQ(tier_->Stats().pages.remote, kBundleSlots);
  EXPECT_EQ(tier_->Stats().pool_entry_bytes, 0u);
  ExpectBundle(1);
}

TEST_F(TierBundleFetch, NothingIsTakenInAboveTheAcceptThreshold) {
  StartPacking();
  SendBundle();
  // One percent of the pool: twenty raw pages are over it.
  ASSERT_TRUE(tier_->SetLimits(std::uint64_t{4} << 20, 1).ok());
  remote_.SetWritable(false);
  for (SlotIndex slot = 100; slot < 120; ++slot) {
    ASSERT_EQ(StoreKind(slot, 1, PageKind::kRandom), IoStatus::kOk);
  }
  ExpectBundle(1);
  EXPECT_EQ(Count(Counter::neighbours_adopted), 0u);
  EXPECT_EQ(Count(Counter::loads_remote), kBundleSlots);
}

TEST_F(TierBundleFetch, AFetchOvertakenByChangesOfItsMembersReadsTheirPagesOfThenOrNow) {
  StartPacking();
  SendBundle();
  const auto pages = FetchDuring({kFirst, kFirst + 1, kFirst + 2}, [this] {
    StorePage(kFirst + 1, 2);
    tier_->Invalidate(kFirst + 2, 2);
    StorePage(kFirst + 5, 2);
  });
  for (SlotIndex i = 0; i < 3; ++i) EXPECT_EQ(pages[i], PageLikeItsNeighbours(kFirst + i, 1));
  // What changed is not taken in.
  ASSERT_TRUE(
      Eventually([this] { return Count(Counter::neighbours_adopted) == kBundleSlots - 5; }));
  ExpectPage(kFirst + 1, 2);
  EXPECT_EQ(Read(kFirst + 2), Page{});
  EXPECT_EQ(Read(kFirst + 3), Page{});
  ExpectPage(kFirst + 5, 2);
  ExpectPage(kFirst + 6, 1);
}

TEST_F(TierBundleFetch, AFetchOvertakenByTheEndOfItsBundleReadsThePagesOfNow) {
  StartPacking();
  SendBundle();
  const auto pages = FetchDuring({kFirst, kFirst + 1}, [this] {
    StoreBundle(2);
    tier_->Invalidate(kFirst + 1, 1);
    ASSERT_TRUE(Eventually([this] { return !remote_.Has(kKey); }));
  });
  EXPECT_EQ(pages[0], PageLikeItsNeighbours(kFirst, 2));
  EXPECT_EQ(pages[1], Page{});
}

TEST_F(TierBundleFetch, AFetchThatFailsReadsThePageThatAnotherTookIn) {
  StartPacking();
  SendBundle();
  remote_.Hold();
  AwaitedFetch taking({kFirst});
  AwaitedFetch failing({kFirst + 1});
  tier_->Fetch(&taking);
  tier_->Fetch(&failing);
  remote_.WaitForHeld(2);
  remote_.FailGets(GetResult::kUnavailable, 1);
  remote_.Release();
  EXPECT_EQ(taking.Wait(), IoStatus::kOk);
  EXPECT_EQ(failing.Wait(), IoStatus::kOk);
  EXPECT_EQ(failing.pages[0], PageLikeItsNeighbours(kFirst + 1, 1));
  EXPECT_EQ(Count(Counter::fetch_unavailable), 0u);
}

TEST_F(TierBundleFetch, DamagedAndMissingBundlesAreErrorsNeverZeros) {
  StartPacking();
  SendBundle();
  remote_.Damage(kKey);
  ExpectReadFails(kFirst);
  EXPECT_EQ(Count(Counter::fail_checksum), 1u);
  remote_.Damage(kKey);  // as it was
  ExpectPage(kFirst, 1);
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.clean == kBundleSlots - 1; }));
  remote_.Truncate(kKey);
  ExpectReadFails(kFirst);
  EXPECT_EQ(Count(Counter::decompress_fail), 1u);
  remote_.FailGets(GetResult::kUnavailable);
  ExpectReadFails(kFirst);
  remote_.FailGets(GetResult::kFound);
  remote_.Forget(kKey);
  ExpectReadFails(kFirst);
  EXPECT_EQ(Count(Counter::fetch_missing), 3u);
}

TEST_F(TierBundleFetch, AServerThatWentBackToAnOlderBundleIsAnErrorNeverItsPages) {
  StartPacking();
  SendBundle();
  remote_.Remember(kKey);
  StoreBundle(2);
  StorePage(kEnd, 1);
  WriteBack(kBundleSlots + 1);
  remote_.GoBack(kKey);
  AwaitedFetch fetch({kFirst, kEnd});
  tier_->Fetch(&fetch);
  EXPECT_EQ(fetch.Wait(), IoStatus::kIoError);
  EXPECT_EQ(fetch.pages[0], Page{});
  EXPECT_EQ(fetch.pages[1], PageLikeItsNeighbours(kEnd, 1));
  EXPECT_EQ(Count(Counter::fetch_missing), 1u);
  // Nor are they taken in.
  ExpectReadFails(kFirst + 1);
  EXPECT_EQ(Count(Counter::neighbours_adopted), 0u);
}

TEST_F(TierBundleFetch, CleanPagesFollowTheirCgroupIntoItsParent) {
  StartPacking();
  ASSERT_TRUE(tier_->PlaceCgroup(7, kUnknownCgroup));
  tier_->SetLabel(7);
  AdoptNeighbours();
  tier_->RemoveCgroup(7);
  EXPECT_EQ(tier_->CgroupStats()[0].pages.clean, kBundleSlots - 1);
  EXPECT_EQ(tier_->CgroupStats()[0].pages.remote, 1u);
  WriteBack(1);
  EXPECT_EQ(tier_->CgroupStats()[0].pages.remote, kBundleSlots);
  EXPECT_EQ(tier_->CgroupStats()[0].tree_remote_pages, kBundleSlots);
}

}  // namespace
}  // namespace farswap::tier
