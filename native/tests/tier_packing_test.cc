// Neighbours that are sent as one bundle and come back together.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tier/bundle.h"
#include "tier_fixture.h"

namespace farswap::tier {
namespace {

// Something that a test does when the clock is looked at for the last of so many times.
std::atomic<int> clock_calls{0};
std::atomic<void (*)()> at_last_call{nullptr};
std::uint32_t WatchedClock() {
  if (clock_calls.load() > 0 && clock_calls.fetch_sub(1) == 1) at_last_call.load()();
  return 1'000'000;
}

class TierPacking : public TierFixture {
 protected:
  static constexpr SlotIndex kFirst = 32;  // of the bundle that most tests are about
  static constexpr SlotIndex kEnd = kFirst + kBundleSlots;
  static constexpr ObjectKey kKey = BundleKeyOf(kFirst);

  void StartPacking(std::uint64_t slots = 16384) {
    Start(slots);
    ASSERT_TRUE(tier_->SetPacking(true).ok());
  }

  void StorePage(SlotIndex slot, std::uint32_t generation) {
    ASSERT_EQ(StoreWait(*tier_, slot, PageLikeItsNeighbours(slot, generation).data()),
              IoStatus::kOk);
  }

  void StoreBundle(std::uint32_t generation) {
    for (SlotIndex slot = kFirst; slot < kEnd; ++slot) StorePage(slot, generation);
  }

  // The bundle's pages of generation 1, on the server and nowhere else.
  void SendBundle() {
    StoreBundle(1);
    WriteBack(kBundleSlots);
    ASSERT_EQ(tier_->Stats().pages.remote, kBundleSlots);
    ASSERT_TRUE(remote_.Has(kKey));
  }

  // And all but the first of them taken into the pool.
  void AdoptNeighbours() {
    SendBundle();
    ExpectPage(kFirst, 1);
    ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.clean == kBundleSlots - 1; }));
  }

  void ExpectPage(SlotIndex slot, std::uint32_t generation) {
    EXPECT_EQ(Read(slot), PageLikeItsNeighbours(slot, generation)) << "slot " << slot;
  }

  void ExpectBundle(std::uint32_t generation) {
    for (SlotIndex slot = kFirst; slot < kEnd; ++slot) ExpectPage(slot, generation);
  }

  void StartWriteback(std::uint64_t pages) {
    // A batch of a job that was cancelled may still be under way.
    ASSERT_TRUE(
        Eventually([&] { return tier_->StartManualWriteback({.bytes = pages * kPageBytes}); }));
  }
};

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

TEST_F(TierPacking, BundlesAreReadAfterPackingWasSwitchedOff) {
  StartPacking();
  SendBundle();
  ASSERT_TRUE(tier_->SetPacking(false).ok());
  ExpectBundle(1);
  StoreBundle(2);
  WriteBack(kBundleSlots);
  EXPECT_TRUE(Eventually([this] { return !remote_.Has(kKey); }));
  ExpectBundle(2);
}

TEST_F(TierPacking, PageInOfOneTakesTheOthersInAsClean) {
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

TEST_F(TierPacking, PagesOfOneReadShareOneFetchOfTheirBundle) {
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

TEST_F(TierPacking, SeveralBundlesAndPagesCanBeReadAtOnce) {
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
TEST_F(TierPacking, PagesOverwrittenWhileTheyAreTakenInAreTheNewOnes) {
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

TEST_F(TierPacking, CleanEntriesAreDroppedWithoutAnythingBeingSent) {
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

TEST_F(TierPacking, NothingIsTakenInAboveTheAcceptThreshold) {
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

TEST_F(TierPacking, ANeighbourThatWasReadStays) {
  StartPacking();
  StoreBundle(1);
  ExpectPage(kFirst + 3, 1);
  WriteBack(kBundleSlots - 1);
  EXPECT_EQ(StateOf(kFirst + 3), "local");
  EXPECT_EQ(tier_->Stats().pages.remote, kBundleSlots - 1);
}

TEST_F(TierPacking, NoMoreNeighboursGoThanWereAskedFor) {
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
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.writing == 0; }));
  EXPECT_EQ(Count(Counter::writeback_raced), 2u);
  EXPECT_EQ(Count(Counter::written_back_pages), kBundleSlots - 2);
  ExpectPage(kFirst, 1);
  ExpectPage(kFirst + 1, 2);
  EXPECT_EQ(Read(kFirst + 2), Page{});
  for (SlotIndex slot = kFirst + 3; slot < kEnd; ++slot) ExpectPage(slot, 1);
}

TEST_F(TierPacking, ABundleThatLostAllItsMembersDuringTheWriteIsDiscarded) {
  StartPacking();
  StoreBundle(1);
  remote_.HoldPuts();
  StartWriteback(kBundleSlots);
  remote_.WaitForHeld(1);
  tier_->CancelManualWriteback();
  StoreBundle(2);
  remote_.Release();
  EXPECT_TRUE(Eventually([this] { return Count(Counter::writeback_raced) == kBundleSlots; }));
  EXPECT_TRUE(Eventually([this] { return remote_.pages() == 0; }));
  ExpectBundle(2);
}

TEST_F(TierPacking, AnotherBundleSentBeforeTheFirstWasAcknowledgedIsTheOneThatStays) {
  StartPacking();
  StoreBundle(1);
  remote_.HoldPuts();
  StartWriteback(kBundleSlots);
  remote_.WaitForHeld(1);
  tier_->CancelManualWriteback();
  StoreBundle(2);
  tier_->WriteBackProactively(kUnknownCgroup, kBundleSlots, 0);
  remote_.WaitForHeld(2);
  remote_.Release();
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.remote == kBundleSlots; }));
  EXPECT_EQ(remote_.VersionOf(kKey), 2u);
  ExpectBundle(2);
}

TEST_F(TierPacking, AnAcknowledgementOfAnOlderBundleIsNotOneOfTheNewer) {
  StartPacking();
  StoreBundle(1);
  remote_.HoldPuts();
  StartWriteback(kBundleSlots);
  remote_.WaitForHeld(1);
  tier_->CancelManualWriteback();
  StoreBundle(2);
  tier_->WriteBackProactively(kUnknownCgroup, kBundleSlots, 0);
  remote_.WaitForHeld(2);
  remote_.FailPuts(PutResult::kServerFull, 1);
  remote_.Release();
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.writing == 0; }));
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
  ASSERT_TRUE(Eventually([this] { return tier_->StartManualWriteback({.bytes = 16 << 12}); }));
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
  ASSERT_TRUE(Eventually([this] { return tier_->StartManualWriteback({.bytes = 16 << 12}); }));
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

TEST_F(TierPacking, AFetchOvertakenByChangesOfItsMembersReadsTheirPagesOfThenOrNow) {
  StartPacking();
  SendBundle();
  remote_.Hold();
  AwaitedFetch fetch({kFirst, kFirst + 1, kFirst + 2});
  tier_->Fetch(&fetch);
  remote_.WaitForHeld(1);
  StorePage(kFirst + 1, 2);
  tier_->Invalidate(kFirst + 2, 2);
  StorePage(kFirst + 5, 2);
  remote_.Release();
  ASSERT_EQ(fetch.Wait(), IoStatus::kOk);
  EXPECT_EQ(fetch.pages[0], PageLikeItsNeighbours(kFirst, 1));
  EXPECT_EQ(fetch.pages[1], PageLikeItsNeighbours(kFirst + 1, 1));
  EXPECT_EQ(fetch.pages[2], PageLikeItsNeighbours(kFirst + 2, 1));
  // What changed is not taken in.
  ASSERT_TRUE(
      Eventually([this] { return Count(Counter::neighbours_adopted) == kBundleSlots - 5; }));
  ExpectPage(kFirst + 1, 2);
  EXPECT_EQ(Read(kFirst + 2), Page{});
  EXPECT_EQ(Read(kFirst + 3), Page{});
  ExpectPage(kFirst + 5, 2);
  ExpectPage(kFirst + 6, 1);
}

TEST_F(TierPacking, AFetchOvertakenByTheEndOfItsBundleReadsThePagesOfNow) {
  StartPacking();
  SendBundle();
  remote_.Hold();
  AwaitedFetch fetch({kFirst, kFirst + 1});
  tier_->Fetch(&fetch);
  remote_.WaitForHeld(1);
  StoreBundle(2);
  tier_->Invalidate(kFirst + 1, 1);
  ASSERT_TRUE(Eventually([this] { return !remote_.Has(kKey); }));
  remote_.Release();
  ASSERT_EQ(fetch.Wait(), IoStatus::kOk);
  EXPECT_EQ(fetch.pages[0], PageLikeItsNeighbours(kFirst, 2));
  EXPECT_EQ(fetch.pages[1], Page{});
}

TEST_F(TierPacking, AFetchThatFailsReadsThePageThatAnotherTookIn) {
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

TEST_F(TierPacking, DamagedAndMissingBundlesAreErrorsNeverZeros) {
  StartPacking();
  SendBundle();
  const auto status = [this] {
    Page page{};
    return LoadWait(*tier_, kFirst, page.data());
  };
  remote_.Damage(kKey);
  EXPECT_EQ(status(), IoStatus::kIoError);
  EXPECT_EQ(Count(Counter::fail_checksum), 1u);
  remote_.Damage(kKey);  // as it was
  EXPECT_EQ(status(), IoStatus::kOk);
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.clean == kBundleSlots - 1; }));
  remote_.Truncate(kKey);
  EXPECT_EQ(status(), IoStatus::kIoError);
  EXPECT_EQ(Count(Counter::decompress_fail), 1u);
  remote_.FailGets(GetResult::kUnavailable);
  EXPECT_EQ(status(), IoStatus::kIoError);
  remote_.FailGets(GetResult::kFound);
  remote_.Forget(kKey);
  EXPECT_EQ(status(), IoStatus::kIoError);
  EXPECT_EQ(Count(Counter::fetch_missing), 3u);
}

TEST_F(TierPacking, AServerThatWentBackToAnOlderBundleIsAnErrorNeverItsPages) {
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
  Page page{};
  EXPECT_EQ(LoadWait(*tier_, kFirst + 1, page.data()), IoStatus::kIoError);
  EXPECT_EQ(Count(Counter::neighbours_adopted), 0u);
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

TEST_F(TierPacking, CleanPagesFollowTheirCgroupIntoItsParent) {
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

TEST_F(TierPacking, TheLastBundleOfADeviceMayBeShort) {
  StartPacking(kBundleSlots + 3);
  for (SlotIndex slot = kBundleSlots; slot < kBundleSlots + 3; ++slot) StorePage(slot, 1);
  WriteBack(3);
  EXPECT_TRUE(remote_.Has(BundleKeyOf(kBundleSlots)));
  EXPECT_EQ(remote_.pages(), 1u);
  for (SlotIndex slot = kBundleSlots; slot < kBundleSlots + 3; ++slot) ExpectPage(slot, 1);
}

// It is taken twice into one batch: as a neighbour, and by itself when it was overwritten and the
// batch still had room.
TEST_F(TierPacking, AMemberOverwrittenWhileItsBatchIsFilledIsNotInTheBundle) {
  TierConfig config;
  config.slots = 16384;
  config.pool_bytes_max = 4 << 20;
  config.boot_seconds = &WatchedClock;
  auto made = Tier::Create(config, &remote_);
  ASSERT_TRUE(made.ok());
  tier_ = std::move(made.value());
  ASSERT_TRUE(tier_->SetPacking(true).ok());
  StoreBundle(1);
  StorePage(kEnd, 1);  // taken behind the bundle, under another lock
  static Tier* tier;
  tier = tier_.get();
  at_last_call = [] {
    std::thread([] {
      EXPECT_EQ(StoreWait(*tier, kFirst + 3, PageLikeItsNeighbours(kFirst + 3, 2).data()),
                IoStatus::kOk);
    }).join();
  };
  clock_calls = 2;  // for the bundle, and for the page behind it
  WriteBack(kBundleSlots + 2);
  EXPECT_EQ(Count(Counter::writeback_started_manual), kBundleSlots + 2);
  EXPECT_EQ(Count(Counter::writeback_raced), 1u);
  ExpectPage(kFirst + 3, 2);
  ExpectPage(kFirst + 4, 1);
  ExpectPage(kEnd, 1);
}

}  // namespace
}  // namespace farswap::tier
