// Neighbours that are sent as one bundle.
#include <atomic>

#include "tier/pool.h"
#include "tier_packing_fixture.h"

namespace farswap::tier {
namespace {

TEST_F(TierPacking, IsOffUntilItIsSwitchedOn) {
  Start();
  StoreBundle(1);
  WriteBack(kBundleSlots);
  EXPECT_EQ(remote_.pages(), kBundleSlots);
  EXPECT_EQ(Count(Counter::packed), 0u);
  ExpectBundle(1);
  EXPECT_EQ(Count(Counter::neighbours_adopted), 0u);
}

TEST_F(TierPacking, ColdNeighboursTravelAsOneBundleAndAreReadBack) {
  StartPacking();
  SendBundle();
  EXPECT_EQ(remote_.pages(), 1u);
  EXPECT_EQ(Count(Counter::packed), kBundleSlots);
  EXPECT_EQ(Count(Counter::written_back_pages), kBundleSlots);
  EXPECT_EQ(tier_->ManualWritebackProgress().written_bytes, kBundleSlots * kPageBytes);
  EXPECT_EQ(tier_->ManualWritebackProgress().sent_bytes, Count(Counter::written_back_bytes));
  EXPECT_LT(Count(Counter::written_back_bytes), kPageBytes);
  ExpectBundle(1);
}

TEST_F(TierPacking, AnOverwrittenMemberLeavesAndTheLastOneTakesTheBundleWithIt) {
  StartPacking();
  AdoptNeighbours();  // members are overwritten as remote and as clean ones
  StorePage(kFirst, 2);
  StorePage(kFirst + 1, 2);
  tier_->Invalidate(kFirst + 2, kBundleSlots - 3);
  ExpectPage(kFirst, 2);
  ExpectPage(kFirst + 1, 2);
  EXPECT_EQ(Read(kFirst + 2), Page{});
  ExpectPage(kEnd - 1, 1);
  EXPECT_TRUE(remote_.Has(kKey));
  tier_->Invalidate(kEnd - 1, 1);
  EXPECT_TRUE(Eventually([this] { return !remote_.Has(kKey); }));
  EXPECT_TRUE(Eventually([this] { return Count(Counter::discards_sent) > 0; }));
  EXPECT_EQ(Count(Counter::discards_sent), 1u) << "no page of it was there by itself";
  ExpectPage(kFirst, 2);
}

TEST_F(TierPacking, NoBundleIsMadeWherePagesAreInOne) {
  StartPacking();
  SendBundle();
  for (SlotIndex slot = kFirst; slot < kFirst + 4; ++slot) StorePage(slot, 2);
  WriteBack(4);
  EXPECT_EQ(Count(Counter::packed), kBundleSlots);
  EXPECT_EQ(remote_.pages(), 5u);
  for (SlotIndex slot = kFirst; slot < kFirst + 4; ++slot) ExpectPage(slot, 2);
  for (SlotIndex slot = kFirst + 4; slot < kEnd; ++slot) ExpectPage(slot, 1);
}

TEST_F(TierPacking, ALonePageIsNoBundle) {
  StartPacking();
  // Would shrink by itself as a bundle does.
  ASSERT_EQ(StoreWait(*tier_, kFirst, PageOfLetters(1, 4).data()), IoStatus::kOk);
  WriteBack(1);
  EXPECT_EQ(Count(Counter::packed), 0u);
  EXPECT_TRUE(remote_.Has(kFirst));
}

TEST_F(TierPacking, NeighboursStoredAcrossATickOfTheirClockShareABundle) {
  static std::atomic<std::uint32_t> boot_s;
  boot_s = 10 * Entry::kTickSeconds - 1;
  config_.boot_seconds = [] { return boot_s.load(); };
  StartPacking();
  for (SlotIndex slot = kFirst; slot < kEnd; ++slot) {
    StorePage(slot, 1);
    if (slot == kFirst + 3) ++boot_s;
  }
  WriteBack(kBundleSlots);
  EXPECT_EQ(Count(Counter::packed), kBundleSlots);
}

TEST_F(TierPacking, ANeighbourThatWasReadStays) {
  StartPacking();
  StoreBundle(1);
  ExpectPage(kFirst + 3, 1);
  WriteBack(kBundleSlots - 1);
  EXPECT_EQ(StateOf(kFirst + 3), "local");
  EXPECT_EQ(tier_->Stats().pages.remote, kBundleSlots - 1);
}

TEST_F(TierPacking, NoMoreNeighboursGoThanWereRequested) {
  StartPacking();
  StoreBundle(1);
  WriteBack(4);
  EXPECT_EQ(tier_->Stats().pages.remote, 4u);
  EXPECT_EQ(tier_->Stats().pages.local, kBundleSlots - 4);
}

TEST_F(TierPacking, NeighboursBeyondTheirCgroupsQuotaStay) {
  StartPacking();
  tier_->SetLabel(7);
  ASSERT_TRUE(tier_->ConfigureCgroup(7, {.remote_pages_max = 4, .compressor = {}}));
  StoreBundle(1);
  WriteBack(kBundleSlots);
  EXPECT_EQ(tier_->Stats().pages.remote, 4u);
  EXPECT_EQ(tier_->Stats().pages.local, kBundleSlots - 4);
}

TEST_F(TierPacking, StalePagesOfSlotsThatCameIntoABundleAreDiscarded) {
  Start();
  StoreBundle(1);
  WriteBack(kBundleSlots);
  remote_.RefuseDiscards(true);
  ASSERT_TRUE(tier_->SetPacking(true).ok());
  StoreBundle(2);
  WriteBack(kBundleSlots);
  EXPECT_EQ(remote_.pages(), kBundleSlots + 1);
  remote_.RefuseDiscards(false);
  EXPECT_TRUE(Eventually([this] { return remote_.pages() == 1; }));
  ExpectBundle(2);
}

TEST_F(TierPacking, MembersChangedDuringTheWriteWin) {
  StartPacking();
  StoreBundle(1);
  remote_.Hold();
  StartWriteback(kBundleSlots);
  remote_.WaitForHeld(1);
  ExpectPage(kFirst, 1);  // from the pool
  StorePage(kFirst + 1, 2);
  tier_->Invalidate(kFirst + 2, 1);
  tier_->CancelManualWriteback();
  remote_.Release();
  AwaitAnswers();
  EXPECT_EQ(Count(Counter::writeback_raced), 2u);
  EXPECT_EQ(Count(Counter::written_back_pages), kBundleSlots - 2);
  ExpectPage(kFirst, 1);
  ExpectPage(kFirst + 1, 2);
  EXPECT_EQ(Read(kFirst + 2), Page{});
  for (SlotIndex slot = kFirst + 3; slot < kEnd; ++slot) ExpectPage(slot, 1);
}

TEST_F(TierPacking, ABundleThatLostAllItsMembersDuringTheWriteIsDiscarded) {
  StartPacking();
  OvertakeBundle();
  remote_.Release();
  EXPECT_TRUE(Eventually([this] { return Count(Counter::writeback_raced) == kBundleSlots; }));
  EXPECT_TRUE(Eventually([this] { return remote_.pages() == 0; }));
  ExpectBundle(2);
}

TEST_F(TierPacking, AnotherBundleSentBeforeTheFirstWasAcknowledgedIsTheOneThatStays) {
  StartPacking();
  OvertakeBundle();
  tier_->WriteBackProactively(kUnknownCgroup, kBundleSlots, 0);
  remote_.WaitForHeld(2);
  remote_.Release();
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.remote == kBundleSlots; }));
  EXPECT_EQ(remote_.VersionOf(kKey), 2u);
  ExpectBundle(2);
}

TEST_F(TierPacking, AnAcknowledgementOfAnOlderBundleIsNotOneOfTheNewer) {
  StartPacking();
  OvertakeBundle();
  tier_->WriteBackProactively(kUnknownCgroup, kBundleSlots, 0);
  remote_.WaitForHeld(2);
  remote_.FailPuts(PutResult::kServerFull, 1);
  remote_.Release();
  AwaitAnswers();
  EXPECT_EQ(tier_->Stats().pages.local, kBundleSlots);
  ExpectBundle(2);
}

TEST_F(TierPacking, AFailedWriteMakesItsMembersLocalAgain) {
  StartPacking();
  StoreBundle(1);
  for (const PutResult result :
       {PutResult::kUnavailable, PutResult::kServerFull, PutResult::kRejected}) {
    remote_.FailPuts(result);
    const auto failed = [this] {
      return Count(Counter::writeback_failed_unavailable) + Count(Counter::writeback_failed_full) +
             Count(Counter::writeback_failed_rejected);
    };
    const std::uint64_t before = failed();
    StartWriteback(kBundleSlots);
    ASSERT_TRUE(Eventually([&] { return failed() >= before + kBundleSlots; }));
    tier_->CancelManualWriteback();
    ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.local == kBundleSlots; }));
  }
  remote_.FailPuts(PutResult::kAcked);
  StartWriteback(kBundleSlots);
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.remote == kBundleSlots; }));
  EXPECT_EQ(remote_.pages(), 1u);
  ExpectBundle(1);
}

// The server has the first attempt, of fewer pages. Had both the same version, it would keep that.
TEST_F(TierPacking, AnAttemptThatSeemedToFailDoesNotPassForTheNextOne) {
  StartPacking();
  for (SlotIndex slot = kFirst; slot < kFirst + 4; ++slot) StorePage(slot, 1);
  remote_.LosePutAnswers();
  remote_.RefuseDiscards(true);
  StartWriteback(4);
  ASSERT_TRUE(Eventually([this] { return Count(Counter::writeback_failed_unavailable) >= 4; }));
  tier_->CancelManualWriteback();
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.local == 4; }));
  EXPECT_TRUE(remote_.Has(kKey));
  for (SlotIndex slot = kFirst + 4; slot < kEnd; ++slot) StorePage(slot, 1);
  remote_.FailPuts(PutResult::kAcked);
  StartWriteback(kBundleSlots);
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.remote == kBundleSlots; }));
  remote_.RefuseDiscards(false);
  ExpectBundle(1);
  EXPECT_TRUE(remote_.Has(kKey));
}

TEST_F(TierPacking, APageThatSeemedToFailAloneIsDiscardedWhenItCameInABundle) {
  Start();
  StoreBundle(1);
  remote_.LosePutAnswers();
  tier_->WriteBackProactively(kUnknownCgroup, kBundleSlots, 0);
  ASSERT_TRUE(
      Eventually([this] { return Count(Counter::writeback_failed_unavailable) == kBundleSlots; }));
  EXPECT_EQ(remote_.pages(), kBundleSlots);
  ASSERT_TRUE(tier_->SetPacking(true).ok());
  remote_.FailPuts(PutResult::kAcked);
  WriteBack(kBundleSlots);
  EXPECT_EQ(Count(Counter::packed), kBundleSlots);
  EXPECT_TRUE(Eventually([this] { return remote_.pages() == 1; }));
  ExpectBundle(1);
}

TEST_F(TierPacking, ADiscardOvertakenByANewBundleSparesIt) {
  StartPacking();
  SendBundle();
  remote_.RefuseDiscards(true);
  tier_->Invalidate(kFirst, kBundleSlots);
  StoreBundle(2);
  WriteBack(kBundleSlots);
  remote_.RefuseDiscards(false);
  const std::uint64_t sent = Count(Counter::discards_sent);
  // A discard that is sent after the refused one was looked at.
  StorePage(0, 1);
  StorePage(1, 1);
  WriteBack(2);
  tier_->Invalidate(0, 2);
  ASSERT_TRUE(Eventually([&] { return Count(Counter::discards_sent) > sent; }));
  EXPECT_TRUE(remote_.Has(kKey));
  ExpectBundle(2);
}

TEST_F(TierPacking, PagesOfDifferentCgroupsDoNotShareABundle) {
  StartPacking();
  for (SlotIndex slot = kFirst; slot < kEnd; ++slot) {
    tier_->SetLabel(slot % 2 == 0 ? 7 : 9);
    StorePage(slot, 1);
  }
  WriteBack(kBundleSlots);
  EXPECT_EQ(Count(Counter::packed), kBundleSlots / 2);
  EXPECT_EQ(remote_.pages(), 1 + kBundleSlots / 2);
  ExpectBundle(1);
}

TEST_F(TierPacking, TheLastBundleOfADeviceMayBeShort) {
  StartPacking(kBundleSlots + 3);
  for (SlotIndex slot = kBundleSlots; slot < kBundleSlots + 3; ++slot) StorePage(slot, 1);
  WriteBack(3);
  EXPECT_TRUE(remote_.Has(BundleKeyOf(kBundleSlots)));
  EXPECT_EQ(remote_.pages(), 1u);
  for (SlotIndex slot = kBundleSlots; slot < kBundleSlots + 3; ++slot) ExpectPage(slot, 1);
}

}  // namespace
}  // namespace farswap::tier
