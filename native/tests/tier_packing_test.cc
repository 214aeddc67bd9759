// Neighbours that are sent as one unit and come back together.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tier/unit.h"
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
  static constexpr SlotIndex kFirst = 32;  // of the unit that most tests are about
  static constexpr SlotIndex kEnd = kFirst + kUnitSlots;
  static constexpr ObjectKey kKey = UnitKeyOf(kFirst);

  void StartPacking(std::uint64_t slots = 16384) {
    Start(slots);
    ASSERT_TRUE(tier_->SetPacking(true).ok());
  }

  void StorePage(SlotIndex slot, std::uint32_t generation) {
    ASSERT_EQ(tier_->Store(slot, PageLikeItsNeighbours(slot, generation).data()), IoStatus::kOk);
  }

  void StoreUnit(std::uint32_t generation) {
    for (SlotIndex slot = kFirst; slot < kEnd; ++slot) StorePage(slot, generation);
  }

  // The unit's pages of generation 1, on the server and nowhere else.
  void SendUnit() {
    StoreUnit(1);
    WriteBack(kUnitSlots);
    ASSERT_EQ(tier_->Stats().pages.remote, kUnitSlots);
    ASSERT_TRUE(remote_.Has(kKey));
  }

  // And all but the first of them taken into the pool.
  void PrefetchUnit() {
    SendUnit();
    ExpectPage(kFirst, 1);
    ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.clean == kUnitSlots - 1; }));
  }

  void ExpectPage(SlotIndex slot, std::uint32_t generation) {
    EXPECT_EQ(Read(slot), PageLikeItsNeighbours(slot, generation)) << "slot " << slot;
  }

  void ExpectUnit(std::uint32_t generation) {
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
  StoreUnit(1);
  WriteBack(kUnitSlots);
  EXPECT_EQ(remote_.pages(), kUnitSlots);
  EXPECT_EQ(Count(Counter::packed), 0u);
  ExpectUnit(1);
  EXPECT_EQ(Count(Counter::prefetched), 0u);
}

TEST_F(TierPacking, ColdNeighboursTravelAsOneUnitAndAreReadBack) {
  StartPacking();
  SendUnit();
  EXPECT_EQ(remote_.pages(), 1u);
  EXPECT_EQ(Count(Counter::packed), kUnitSlots);
  EXPECT_EQ(Count(Counter::written_back_pages), kUnitSlots);
  EXPECT_EQ(tier_->ManualWritebackProgress().written_bytes, kUnitSlots * kPageBytes);
  EXPECT_EQ(tier_->ManualWritebackProgress().sent_bytes, Count(Counter::written_back_bytes));
  EXPECT_LT(Count(Counter::written_back_bytes), kPageBytes);
  ExpectUnit(1);
}

TEST_F(TierPacking, UnitsAreReadAfterPackingWasSwitchedOff) {
  StartPacking();
  SendUnit();
  ASSERT_TRUE(tier_->SetPacking(false).ok());
  ExpectUnit(1);
  StoreUnit(2);
  WriteBack(kUnitSlots);
  EXPECT_TRUE(Eventually([this] { return !remote_.Has(kKey); }));
  ExpectUnit(2);
}

TEST_F(TierPacking, PageInOfOneTakesTheOthersInAsClean) {
  StartPacking();
  PrefetchUnit();
  EXPECT_EQ(Count(Counter::prefetched), kUnitSlots - 1);
  EXPECT_EQ(StateOf(kFirst + 1), "clean");
  const std::size_t asked = remote_.objects_asked_for();
  for (SlotIndex slot = kFirst + 2; slot < kEnd; ++slot) ExpectPage(slot, 1);
  EXPECT_EQ(remote_.objects_asked_for(), asked);
  EXPECT_EQ(Count(Counter::prefetch_hits), kUnitSlots - 1);
  EXPECT_EQ(Count(Counter::loads_remote), 1u);
}

TEST_F(TierPacking, PagesOfOneReadShareOneFetchOfTheirUnit) {
  StartPacking();
  SendUnit();
  StorePage(kEnd, 1);
  TestFetch fetch({kFirst + 7, kEnd, kFirst + 3, 9, kFirst + 4, kFirst + 3});
  tier_->Fetch(&fetch);
  ASSERT_EQ(fetch.Wait(), IoStatus::kOk);
  EXPECT_EQ(fetch.pages[0], PageLikeItsNeighbours(kFirst + 7, 1));
  EXPECT_EQ(fetch.pages[1], PageLikeItsNeighbours(kEnd, 1));
  EXPECT_EQ(fetch.pages[2], PageLikeItsNeighbours(kFirst + 3, 1));
  EXPECT_EQ(fetch.pages[3], Page{});
  EXPECT_EQ(fetch.pages[4], PageLikeItsNeighbours(kFirst + 4, 1));
  EXPECT_EQ(fetch.pages[5], PageLikeItsNeighbours(kFirst + 3, 1));
  EXPECT_EQ(remote_.objects_asked_for(), 1u);
  EXPECT_TRUE(Eventually([this] { return Count(Counter::prefetched) == kUnitSlots - 3; }));
}

TEST_F(TierPacking, SeveralUnitsAndPagesCanBeReadAtOnce) {
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
  TestFetch fetch(slots);
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
    StoreUnit(2 * round);
    WriteBack(kUnitSlots);
    TestFetch fetch({kFirst});
    tier_->Fetch(&fetch);
    ASSERT_EQ(fetch.Wait(), IoStatus::kOk);
    StoreUnit(2 * round + 1);
    ExpectUnit(2 * round + 1);
  }
}

TEST_F(TierPacking, CleanEntriesAreDroppedWithoutAnythingBeingSent) {
  StartPacking();
  PrefetchUnit();
  const std::uint64_t written = Count(Counter::written_back_pages);
  WriteBack(kUnitSlots);
  EXPECT_EQ(Count(Counter::clean_dropped), kUnitSlots - 1);
  EXPECT_EQ(Count(Counter::written_back_pages), written);
  EXPECT_EQ(tier_->Stats().pages.remote, kUnitSlots);
  EXPECT_EQ(tier_->Stats().pool_entry_bytes, 0u);
  ExpectUnit(1);
}

TEST_F(TierPacking, NothingIsTakenInAboveTheAcceptThreshold) {
  StartPacking();
  SendUnit();
  // One percent of the pool: twenty raw pages are over it.
  ASSERT_TRUE(tier_->SetLimits(std::uint64_t{4} << 20, 1).ok());
  remote_.SetWritable(false);
  for (SlotIndex slot = 100; slot < 120; ++slot) {
    ASSERT_EQ(StoreKind(slot, 1, PageKind::kRandom), IoStatus::kOk);
  }
  ExpectUnit(1);
  EXPECT_EQ(Count(Counter::prefetched), 0u);
  EXPECT_EQ(Count(Counter::loads_remote), kUnitSlots);
}

TEST_F(TierPacking, AnOverwrittenMemberLeavesAndTheLastOneTakesTheUnitWithIt) {
  StartPacking();
  PrefetchUnit();  // members are overwritten as remote and as clean ones
  StorePage(kFirst, 2);
  StorePage(kFirst + 1, 2);
  tier_->Invalidate(kFirst + 2, kUnitSlots - 3);
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

TEST_F(TierPacking, NoUnitIsMadeWherePagesAreInOne) {
  StartPacking();
  SendUnit();
  for (SlotIndex slot = kFirst; slot < kFirst + 4; ++slot) StorePage(slot, 2);
  WriteBack(4);
  EXPECT_EQ(Count(Counter::packed), kUnitSlots);
  EXPECT_EQ(remote_.pages(), 5u);
  for (SlotIndex slot = kFirst; slot < kFirst + 4; ++slot) ExpectPage(slot, 2);
  for (SlotIndex slot = kFirst + 4; slot < kEnd; ++slot) ExpectPage(slot, 1);
}

TEST_F(TierPacking, ALonePageIsNoUnit) {
  StartPacking();
  // Would shrink by itself as a unit does.
  ASSERT_EQ(tier_->Store(kFirst, PageOfLetters(1, 4).data()), IoStatus::kOk);
  WriteBack(1);
  EXPECT_EQ(Count(Counter::packed), 0u);
  EXPECT_TRUE(remote_.Has(kFirst));
}

TEST_F(TierPacking, ANeighbourThatWasReadStays) {
  StartPacking();
  StoreUnit(1);
  ExpectPage(kFirst + 3, 1);
  WriteBack(kUnitSlots - 1);
  EXPECT_EQ(StateOf(kFirst + 3), "local");
  EXPECT_EQ(tier_->Stats().pages.remote, kUnitSlots - 1);
}

TEST_F(TierPacking, NoMoreNeighboursGoThanWereAskedFor) {
  StartPacking();
  StoreUnit(1);
  WriteBack(4);
  EXPECT_EQ(tier_->Stats().pages.remote, 4u);
  EXPECT_EQ(tier_->Stats().pages.local, kUnitSlots - 4);
}

TEST_F(TierPacking, NeighboursBeyondTheirCgroupsQuotaStay) {
  StartPacking();
  tier_->SetLabel(7);
  ASSERT_TRUE(tier_->ConfigureCgroup(7, {.remote_pages_max = 4, .compressor = {}}));
  StoreUnit(1);
  WriteBack(kUnitSlots);
  EXPECT_EQ(tier_->Stats().pages.remote, 4u);
  EXPECT_EQ(tier_->Stats().pages.local, kUnitSlots - 4);
}

TEST_F(TierPacking, StalePagesOfSlotsThatCameIntoAUnitAreDiscarded) {
  Start();
  StoreUnit(1);
  WriteBack(kUnitSlots);
  remote_.RefuseDiscards(true);
  ASSERT_TRUE(tier_->SetPacking(true).ok());
  StoreUnit(2);
  WriteBack(kUnitSlots);
  EXPECT_EQ(remote_.pages(), kUnitSlots + 1);
  remote_.RefuseDiscards(false);
  EXPECT_TRUE(Eventually([this] { return remote_.pages() == 1; }));
  ExpectUnit(2);
}

TEST_F(TierPacking, MembersChangedDuringTheWriteWin) {
  StartPacking();
  StoreUnit(1);
  remote_.Hold();
  StartWriteback(kUnitSlots);
  remote_.WaitForHeld(1);
  ExpectPage(kFirst, 1);  // from the pool
  StorePage(kFirst + 1, 2);
  tier_->Invalidate(kFirst + 2, 1);
  tier_->CancelManualWriteback();
  remote_.Release();
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.writing == 0; }));
  EXPECT_EQ(Count(Counter::writeback_raced), 2u);
  EXPECT_EQ(Count(Counter::written_back_pages), kUnitSlots - 2);
  ExpectPage(kFirst, 1);
  ExpectPage(kFirst + 1, 2);
  EXPECT_EQ(Read(kFirst + 2), Page{});
  for (SlotIndex slot = kFirst + 3; slot < kEnd; ++slot) ExpectPage(slot, 1);
}

TEST_F(TierPacking, AUnitThatLostAllItsMembersDuringTheWriteIsDiscarded) {
  StartPacking();
  StoreUnit(1);
  remote_.HoldPuts();
  StartWriteback(kUnitSlots);
  remote_.WaitForHeld(1);
  tier_->CancelManualWriteback();
  StoreUnit(2);
  remote_.Release();
  EXPECT_TRUE(Eventually([this] { return Count(Counter::writeback_raced) == kUnitSlots; }));
  EXPECT_TRUE(Eventually([this] { return remote_.pages() == 0; }));
  ExpectUnit(2);
}

TEST_F(TierPacking, AnotherUnitSentBeforeTheFirstWasAcknowledgedIsTheOneThatStays) {
  StartPacking();
  StoreUnit(1);
  remote_.HoldPuts();
  StartWriteback(kUnitSlots);
  remote_.WaitForHeld(1);
  tier_->CancelManualWriteback();
  StoreUnit(2);
  tier_->ShrinkAhead(kUnknownCgroup, kUnitSlots, 0);
  remote_.WaitForHeld(2);
  remote_.Release();
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.remote == kUnitSlots; }));
  EXPECT_EQ(remote_.VersionOf(kKey), 2u);
  ExpectUnit(2);
}

TEST_F(TierPacking, AnAcknowledgementOfAnOlderUnitIsNotOneOfTheNewer) {
  StartPacking();
  StoreUnit(1);
  remote_.HoldPuts();
  StartWriteback(kUnitSlots);
  remote_.WaitForHeld(1);
  tier_->CancelManualWriteback();
  StoreUnit(2);
  tier_->ShrinkAhead(kUnknownCgroup, kUnitSlots, 0);
  remote_.WaitForHeld(2);
  remote_.FailPuts(PutResult::kServerFull, 1);
  remote_.Release();
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.writing == 0; }));
  EXPECT_EQ(tier_->Stats().pages.local, kUnitSlots);
  ExpectUnit(2);
}

TEST_F(TierPacking, AFailedWriteMakesItsMembersLocalAgain) {
  StartPacking();
  StoreUnit(1);
  for (const PutResult result :
       {PutResult::kUnavailable, PutResult::kServerFull, PutResult::kRejected}) {
    remote_.FailPuts(result);
    const auto failed = [this] {
      return Count(Counter::writeback_failed_unavailable) + Count(Counter::writeback_failed_full) +
             Count(Counter::writeback_failed_rejected);
    };
    const std::uint64_t before = failed();
    StartWriteback(kUnitSlots);
    ASSERT_TRUE(Eventually([&] { return failed() >= before + kUnitSlots; }));
    tier_->CancelManualWriteback();
    ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.local == kUnitSlots; }));
  }
  remote_.FailPuts(PutResult::kAcked);
  ASSERT_TRUE(Eventually([this] { return tier_->StartManualWriteback({.bytes = 16 << 12}); }));
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.remote == kUnitSlots; }));
  EXPECT_EQ(remote_.pages(), 1u);
  ExpectUnit(1);
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
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.remote == kUnitSlots; }));
  remote_.RefuseDiscards(false);
  ExpectUnit(1);
  EXPECT_TRUE(remote_.Has(kKey));
}

TEST_F(TierPacking, APageThatSeemedToFailAloneIsDiscardedWhenItCameInAUnit) {
  Start();
  StoreUnit(1);
  remote_.LosePutAnswers();
  tier_->ShrinkAhead(kUnknownCgroup, kUnitSlots, 0);
  ASSERT_TRUE(
      Eventually([this] { return Count(Counter::writeback_failed_unavailable) == kUnitSlots; }));
  EXPECT_EQ(remote_.pages(), kUnitSlots);
  ASSERT_TRUE(tier_->SetPacking(true).ok());
  remote_.FailPuts(PutResult::kAcked);
  WriteBack(kUnitSlots);
  EXPECT_EQ(Count(Counter::packed), kUnitSlots);
  EXPECT_TRUE(Eventually([this] { return remote_.pages() == 1; }));
  ExpectUnit(1);
}

TEST_F(TierPacking, ADiscardOvertakenByANewUnitSparesIt) {
  StartPacking();
  SendUnit();
  remote_.RefuseDiscards(true);
  tier_->Invalidate(kFirst, kUnitSlots);
  StoreUnit(2);
  WriteBack(kUnitSlots);
  remote_.RefuseDiscards(false);
  const std::uint64_t sent = Count(Counter::discards_sent);
  // A discard that is sent after the refused one was looked at.
  StorePage(0, 1);
  StorePage(1, 1);
  WriteBack(2);
  tier_->Invalidate(0, 2);
  ASSERT_TRUE(Eventually([&] { return Count(Counter::discards_sent) > sent; }));
  EXPECT_TRUE(remote_.Has(kKey));
  ExpectUnit(2);
}

TEST_F(TierPacking, AFetchOvertakenByChangesOfItsMembersReadsTheirPagesOfThenOrNow) {
  StartPacking();
  SendUnit();
  remote_.Hold();
  TestFetch fetch({kFirst, kFirst + 1, kFirst + 2});
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
  ASSERT_TRUE(Eventually([this] { return Count(Counter::prefetched) == kUnitSlots - 5; }));
  ExpectPage(kFirst + 1, 2);
  EXPECT_EQ(Read(kFirst + 2), Page{});
  EXPECT_EQ(Read(kFirst + 3), Page{});
  ExpectPage(kFirst + 5, 2);
  ExpectPage(kFirst + 6, 1);
}

TEST_F(TierPacking, AFetchOvertakenByTheEndOfItsUnitReadsThePagesOfNow) {
  StartPacking();
  SendUnit();
  remote_.Hold();
  TestFetch fetch({kFirst, kFirst + 1});
  tier_->Fetch(&fetch);
  remote_.WaitForHeld(1);
  StoreUnit(2);
  tier_->Invalidate(kFirst + 1, 1);
  ASSERT_TRUE(Eventually([this] { return !remote_.Has(kKey); }));
  remote_.Release();
  ASSERT_EQ(fetch.Wait(), IoStatus::kOk);
  EXPECT_EQ(fetch.pages[0], PageLikeItsNeighbours(kFirst, 2));
  EXPECT_EQ(fetch.pages[1], Page{});
}

TEST_F(TierPacking, AFetchThatFailsReadsThePageThatAnotherTookIn) {
  StartPacking();
  SendUnit();
  remote_.Hold();
  TestFetch taking({kFirst});
  TestFetch failing({kFirst + 1});
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

TEST_F(TierPacking, DamagedAndMissingUnitsAreErrorsNeverZeros) {
  StartPacking();
  SendUnit();
  const auto status = [this] {
    Page page{};
    Version version;
    return tier_->LoadWait(kFirst, page.data(), &version);
  };
  remote_.Damage(kKey);
  EXPECT_EQ(status(), IoStatus::kIoError);
  EXPECT_EQ(Count(Counter::fail_checksum), 1u);
  remote_.Damage(kKey);  // as it was
  EXPECT_EQ(status(), IoStatus::kOk);
  ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.clean == kUnitSlots - 1; }));
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

TEST_F(TierPacking, AServerThatWentBackToAnOlderUnitIsAnErrorNeverItsPages) {
  StartPacking();
  SendUnit();
  remote_.Remember(kKey);
  StoreUnit(2);
  StorePage(kEnd, 1);
  WriteBack(kUnitSlots + 1);
  remote_.GoBack(kKey);
  TestFetch fetch({kFirst, kEnd});
  tier_->Fetch(&fetch);
  EXPECT_EQ(fetch.Wait(), IoStatus::kIoError);
  EXPECT_EQ(fetch.pages[0], Page{});
  EXPECT_EQ(fetch.pages[1], PageLikeItsNeighbours(kEnd, 1));
  EXPECT_EQ(Count(Counter::fetch_missing), 1u);
  // Nor are they taken in.
  Page page{};
  Version version;
  EXPECT_EQ(tier_->LoadWait(kFirst + 1, page.data(), &version), IoStatus::kIoError);
  EXPECT_EQ(Count(Counter::prefetched), 0u);
}

TEST_F(TierPacking, PagesOfDifferentCgroupsDoNotShareAUnit) {
  StartPacking();
  for (SlotIndex slot = kFirst; slot < kEnd; ++slot) {
    tier_->SetLabel(slot % 2 == 0 ? 7 : 9);
    StorePage(slot, 1);
  }
  WriteBack(kUnitSlots);
  EXPECT_EQ(Count(Counter::packed), kUnitSlots / 2);
  EXPECT_EQ(remote_.pages(), 1 + kUnitSlots / 2);
  ExpectUnit(1);
}

TEST_F(TierPacking, CleanPagesFollowTheirCgroupIntoItsParent) {
  StartPacking();
  ASSERT_TRUE(tier_->PlaceCgroup(7, kUnknownCgroup));
  tier_->SetLabel(7);
  PrefetchUnit();
  tier_->RemoveCgroup(7);
  EXPECT_EQ(tier_->Groups()[0].pages.clean, kUnitSlots - 1);
  EXPECT_EQ(tier_->Groups()[0].pages.remote, 1u);
  WriteBack(1);
  EXPECT_EQ(tier_->Groups()[0].pages.remote, kUnitSlots);
  EXPECT_EQ(tier_->Groups()[0].tree_remote_pages, kUnitSlots);
}

TEST_F(TierPacking, TheLastUnitOfADeviceMayBeShort) {
  StartPacking(kUnitSlots + 3);
  for (SlotIndex slot = kUnitSlots; slot < kUnitSlots + 3; ++slot) StorePage(slot, 1);
  WriteBack(3);
  EXPECT_TRUE(remote_.Has(UnitKeyOf(kUnitSlots)));
  EXPECT_EQ(remote_.pages(), 1u);
  for (SlotIndex slot = kUnitSlots; slot < kUnitSlots + 3; ++slot) ExpectPage(slot, 1);
}

// It is taken twice into one batch: as a neighbour, and by itself when it was overwritten and the
// batch still had room.
TEST_F(TierPacking, AMemberOverwrittenWhileItsBatchIsFilledIsNotInTheUnit) {
  TierConfig config;
  config.slots = 16384;
  config.pool_bytes_max = 4 << 20;
  config.boot_seconds = &WatchedClock;
  auto made = Tier::Create(config, &remote_);
  ASSERT_TRUE(made.ok());
  tier_ = std::move(made.value());
  ASSERT_TRUE(tier_->SetPacking(true).ok());
  StoreUnit(1);
  StorePage(kEnd, 1);  // taken behind the unit, under another lock
  static Tier* tier;
  tier = tier_.get();
  at_last_call = [] {
    std::thread([] {
      EXPECT_EQ(tier->Store(kFirst + 3, PageLikeItsNeighbours(kFirst + 3, 2).data()),
                IoStatus::kOk);
    }).join();
  };
  clock_calls = 2 + kUnitSlots + 1;  // for the unit, each of its pages, the page behind it
  WriteBack(kUnitSlots + 2);
  EXPECT_EQ(Count(Counter::writeback_started_manual), kUnitSlots + 2);
  EXPECT_EQ(Count(Counter::writeback_raced), 1u);
  ExpectPage(kFirst + 3, 2);
  ExpectPage(kFirst + 4, 1);
  ExpectPage(kEnd, 1);
}

}  // namespace
}  // namespace farswap::tier
