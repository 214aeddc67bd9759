// Writeback, remote reads, and every point at which they can be overtaken or fail.
#include <gtest/gtest.h>

#include <thread>

#include "tier_fixture.h"

namespace farswap::tier {
namespace {

class TierWriteback : public TierFixture {
 protected:
  // Stores one page and starts its writeback, which is held before the server sees it.
  void HoldWritebackOf(SlotIndex slot) {
    ASSERT_EQ(StoreKind(slot, 1, PageKind::kCompressible), IoStatus::kOk);
    remote_.Hold();
    StartWriteback(1);
    remote_.WaitForHeld(1);
    ASSERT_EQ(StateOf(slot), "writing");
  }
  void FinishWriteback() {
    remote_.Release();
    AwaitAnswers();
  }
  static Page First(SlotIndex slot) { return MakePage(slot, 1, PageKind::kCompressible); }
};

TEST_F(TierWriteback, WrittenBackPagesLeaveThePoolAndAreReadBack) {
  Start();
  for (SlotIndex slot = 0; slot < 300; ++slot) StoreKind(slot, 1, PageKind::kCompressible);
  WriteBack(300);
  const TierStats stats = tier_->Stats();
  EXPECT_EQ(stats.pages.remote, 300u);
  EXPECT_EQ(stats.pool_entry_bytes, 0u);
  EXPECT_EQ(remote_.pages(), 300u);
  for (SlotIndex slot = 0; slot < 300; ++slot) ASSERT_EQ(Read(slot), First(slot));
  EXPECT_EQ(Count(Counter::loads_remote), 300u);
  EXPECT_EQ(tier_->Stats().pages.remote, 300u) << "a read never drops anything";
}

TEST_F(TierWriteback, TheColdestGoFirst) {
  Start();
  for (SlotIndex slot = 0; slot < 100; ++slot) StoreKind(slot, 1, PageKind::kCompressible);
  StoreKind(0, 2, PageKind::kCompressible);
  WriteBack(10);
  for (SlotIndex slot = 1; slot <= 10; ++slot) EXPECT_EQ(StateOf(slot), "remote") << slot;
  EXPECT_EQ(StateOf(0), "local");
}

TEST_F(TierWriteback, AReadEntryGetsOneSecondChance) {
  Start();
  for (SlotIndex slot = 0; slot < 10; ++slot) StoreKind(slot, 1, PageKind::kCompressible);
  Page page;
  ASSERT_EQ(tier_->Load(0, page.data()), Tier::LoadResult::kDone);
  WriteBack(9);
  EXPECT_EQ(remote_.put_order(), (std::vector<SlotIndex>{1, 2, 3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(Count(Counter::second_chances), 1u);
  WriteBack(1);
  EXPECT_TRUE(remote_.Has(0));
}

TEST_F(TierWriteback, ProactiveWritebackExaminesNoMorePagesThanRequested) {
  constexpr SlotIndex kPages = 600;  // more than a batch
  Start();
  Page page;
  for (SlotIndex slot = 0; slot < kPages; ++slot) StoreKind(slot, 1, PageKind::kCompressible);
  const auto read = [&](SlotIndex first) {
    for (SlotIndex slot = first; slot < kPages; ++slot) {
      ASSERT_EQ(tier_->Load(slot, page.data()), Tier::LoadResult::kDone);
    }
  };
  read(0);
  tier_->WriteBackProactively(kUnknownCgroup, kPages, 0);
  ASSERT_TRUE(Eventually([&] { return Count(Counter::second_chances) == kPages; }));
  read(5);
  tier_->WriteBackProactively(kUnknownCgroup, kPages, 0);
  ASSERT_TRUE(Eventually([&] { return Count(Counter::second_chances) == 2 * kPages - 5; }));
  ASSERT_TRUE(Eventually([&] { return tier_->Stats().pages.remote == 5; }));
  EXPECT_EQ(remote_.put_order(), (std::vector<SlotIndex>{0, 1, 2, 3, 4}))
      << "the others were read again since they were spared";
}

TEST_F(TierWriteback, TheLimitIsHeldByWritingBackDownToTheAcceptThreshold) {
  Start(16384, std::uint64_t{8} << 20);
  for (SlotIndex slot = 0; slot < 6000; ++slot) {
    ASSERT_EQ(StoreKind(slot, 1, slot % 2 == 0 ? PageKind::kRandom : PageKind::kCompressible),
              IoStatus::kOk);
  }
  ASSERT_TRUE(Eventually([this] {
    const TierStats now = tier_->Stats();
    return !now.shrinking && now.pool_entry_bytes <= now.pool_limit_bytes * 95 / 100;
  }));
  const TierStats stats = tier_->Stats();
  EXPECT_GT(stats.pool_entry_bytes, stats.pool_limit_bytes * 70 / 100) << "no more than needed";
  EXPECT_GT(stats.pages.remote, 3000u);
  EXPECT_EQ(Count(Counter::reject_reclaim_fail), 0u);
  for (SlotIndex slot = 0; slot < 6000; ++slot) {
    ASSERT_EQ(Read(slot),
              MakePage(slot, 1, slot % 2 == 0 ? PageKind::kRandom : PageKind::kCompressible));
  }
}

TEST_F(TierWriteback, APageBeingWrittenIsReadFromThePool) {
  Start();
  HoldWritebackOf(3);
  EXPECT_EQ(Read(3), First(3));
  EXPECT_EQ(Count(Counter::loads_local), 2u) << "Explain() read it too";
  FinishWriteback();
  EXPECT_EQ(StateOf(3), "remote");
}

TEST_F(TierWriteback, AnOverwriteDuringWritebackWinsAndTheStalePageIsDiscarded) {
  Start();
  HoldWritebackOf(3);
  StoreKind(3, 2, PageKind::kCompressible);
  tier_->CancelManualWriteback();  // or it would go on with the newer page
  FinishWriteback();
  ASSERT_TRUE(Eventually([this] { return Count(Counter::writeback_raced) == 1; }));
  EXPECT_EQ(StateOf(3), "local");
  EXPECT_EQ(Read(3), MakePage(3, 2, PageKind::kCompressible));
  EXPECT_TRUE(Eventually([this] { return !remote_.Has(3); }));
  EXPECT_EQ(Count(Counter::written_back_pages), 0u);
}

TEST_F(TierWriteback, ATrimDuringWritebackWinsAndTheStalePageIsDiscarded) {
  Start();
  HoldWritebackOf(3);
  tier_->Invalidate(3, 1);
  FinishWriteback();
  EXPECT_TRUE(Eventually([this] { return Count(Counter::discards_sent) == 1; }));
  EXPECT_FALSE(remote_.Has(3));
  EXPECT_EQ(Read(3), Page{});
}

TEST_F(TierWriteback, AFailedWritebackKeepsThePageAndTriesAgain) {
  for (const PutResult failure : {PutResult::kUnavailable, PutResult::kRejected}) {
    Start();
    remote_.FailPuts(failure);
    StoreKind(3, 1, PageKind::kCompressible);
    StartWriteback(1);
    ASSERT_TRUE(Eventually([this] {
      return Count(Counter::writeback_failed_unavailable) +
                 Count(Counter::writeback_failed_rejected) >
             0;
    }));
    EXPECT_EQ(Read(3), First(3));
    remote_.FailPuts(PutResult::kAcked);
    ASSERT_TRUE(Eventually([this] { return StateOf(3) == "remote"; }));
    EXPECT_EQ(Read(3), First(3));
    tier_.reset();
    remote_.Forget(3);
  }
}

TEST_F(TierWriteback, ReadAfterFailedWritebackReturnsNewestBytes) {
  Start();
  HoldWritebackOf(3);
  remote_.FailPuts(PutResult::kUnavailable);
  StoreKind(3, 2, PageKind::kCompressible);
  FinishWriteback();
  EXPECT_EQ(Read(3), MakePage(3, 2, PageKind::kCompressible));
  remote_.FailPuts(PutResult::kAcked);
  ASSERT_TRUE(Eventually([this] { return tier_->ManualWritebackProgress().finished; }));
  EXPECT_EQ(Read(3), MakePage(3, 2, PageKind::kCompressible));
  EXPECT_EQ(remote_.VersionOf(3), 2u);
}

// The server keeps the page, but its answer is lost. In any later state of the slot, the server
// keeps no more than the tier expects.
TEST_F(TierWriteback, APageWhoseAcknowledgementWasLostIsDiscardedWithItsSlot) {
  Start();
  const auto lose_acknowledgement = [this](SlotIndex slot) {
    ASSERT_EQ(StoreKind(slot, 1, PageKind::kCompressible), IoStatus::kOk);
    const std::uint64_t failed = Count(Counter::writeback_failed_unavailable);
    remote_.LosePutAnswers();
    tier_->WriteBackProactively(kUnknownCgroup, 1, 0);
    ASSERT_TRUE(Eventually([&] {
      return Count(Counter::writeback_failed_unavailable) > failed &&
             tier_->Stats().pages.local == 1;
    }));
    remote_.FailPuts(PutResult::kAcked);
    ASSERT_TRUE(remote_.Has(slot));
    ASSERT_EQ(Read(slot), First(slot));
  };
  lose_acknowledgement(1);
  tier_->Invalidate(1, 1);
  EXPECT_TRUE(Eventually([this] { return remote_.pages() == 0; })) << "trimmed";

  lose_acknowledgement(2);
  ASSERT_EQ(StoreKind(2, 2, PageKind::kZero), IoStatus::kOk);
  EXPECT_TRUE(Eventually([this] { return remote_.pages() == 0; })) << "overwritten";

  lose_acknowledgement(3);
  WriteBack(1);
  EXPECT_EQ(StateOf(3), "remote");
  EXPECT_EQ(Read(3), First(3));
  const std::uint64_t discards = Count(Counter::discards_sent);
  tier_->Invalidate(3, 1);
  EXPECT_TRUE(Eventually([this] { return remote_.pages() == 0; })) << "written back again";
  EXPECT_TRUE(Eventually([&] { return Count(Counter::discards_sent) == discards + 1; }));
}

TEST_F(TierWriteback, APageOverwrittenBeforeItsAcknowledgementWasLostIsDiscarded) {
  Start();
  HoldWritebackOf(1);
  remote_.LosePutAnswers();
  ASSERT_EQ(StoreKind(1, 2, PageKind::kZero), IoStatus::kOk);
  FinishWriteback();
  EXPECT_TRUE(Eventually([this] { return Count(Counter::discards_sent) == 1; }));
  EXPECT_EQ(remote_.pages(), 0u);
}

TEST_F(TierWriteback, FullServersEndAManualWritebackWithTheReason) {
  Start();
  remote_.FailPuts(PutResult::kServerFull);
  StoreKind(3, 1, PageKind::kCompressible);
  WriteBack(1);
  EXPECT_STREQ(tier_->ManualWritebackProgress().stopped_because, "the memory servers are full");
  EXPECT_EQ(StateOf(3), "local");
  EXPECT_EQ(Count(Counter::writeback_failed_full), 1u);
}

TEST_F(TierWriteback, AManualWritebackEndsWhenNothingIsLeft) {
  Start();
  StoreKind(3, 1, PageKind::kCompressible);
  WriteBack(100);
  const ManualWriteback job = tier_->ManualWritebackProgress();
  EXPECT_EQ(job.written_bytes, kPageBytes);
  EXPECT_STREQ(job.stopped_because, "no more entries to write back");
}

TEST_F(TierWriteback, OneManualWritebackAtATimeAndItCanBeCancelled) {
  Start();
  HoldWritebackOf(3);
  EXPECT_FALSE(tier_->StartManualWriteback({.bytes = kPageBytes}));
  tier_->CancelManualWriteback();
  EXPECT_STREQ(tier_->ManualWritebackProgress().stopped_because, "cancelled");
  FinishWriteback();
  StartWriteback(1);
}

TEST_F(TierWriteback, AStoreWaitsForRoomWhenTheServerIsSlow) {
  Start(16384, std::uint64_t{4} << 20);
  remote_.Hold();
  SlotIndex slot = 0;
  std::thread writer([&] {
    for (; slot < 3000; ++slot) {
      ASSERT_EQ(StoreKind(slot, 1, PageKind::kRandom), IoStatus::kOk) << slot;
    }
  });
  EXPECT_TRUE(Eventually([this] { return Count(Counter::pool_limit_hit) > 0; }));
  remote_.Release();
  writer.join();
  for (SlotIndex each = 0; each < 3000; ++each) {
    ASSERT_EQ(Read(each), MakePage(each, 1, PageKind::kRandom));
  }
}

TEST_F(TierWriteback, AnOverwrittenRemotePageIsDiscardedAtTheServer) {
  Start();
  for (SlotIndex slot = 0; slot < 100; ++slot) StoreKind(slot, 1, PageKind::kCompressible);
  WriteBack(100);
  tier_->Invalidate(0, 50);
  for (SlotIndex slot = 50; slot < 100; ++slot) StoreKind(slot, 2, PageKind::kZero);
  EXPECT_TRUE(Eventually([this] { return remote_.pages() == 0; }));
  for (SlotIndex slot = 0; slot < 100; ++slot) ASSERT_EQ(Read(slot), Page{});
}

TEST_F(TierWriteback, AFetchMixesEveryState) {
  Start();
  StoreKind(10, 1, PageKind::kSameFilled);
  StoreKind(11, 1, PageKind::kCompressible);
  WriteBack(1);
  StoreKind(12, 1, PageKind::kRandom);
  AwaitedFetch fetch({9, 10, 11, 12});
  tier_->Fetch(&fetch);
  ASSERT_EQ(fetch.Wait(), IoStatus::kOk);
  EXPECT_EQ(fetch.pages[0], Page{});
  EXPECT_EQ(fetch.pages[1], MakePage(10, 1, PageKind::kSameFilled));
  EXPECT_EQ(fetch.pages[2], First(11));
  EXPECT_EQ(fetch.pages[3], MakePage(12, 1, PageKind::kRandom));
}

TEST_F(TierWriteback, DiscardsThatOneServerDoesNotTakeHoldUpNoOthersAndAreNotLost) {
  Start();
  constexpr SlotIndex kPages = 1000;  // in two shards each
  for (SlotIndex i = 0; i < kPages; ++i) {
    StoreKind(i, 1, PageKind::kCompressible);
    StoreKind(kShardSlots + i, 1, PageKind::kCompressible);
  }
  WriteBack(2 * kPages);
  remote_.RefuseDiscards(true, kShardSlots);
  tier_->Invalidate(0, kPages);
  tier_->Invalidate(kShardSlots, kPages);
  EXPECT_TRUE(Eventually([this] { return Count(Counter::discards_sent) == kPages; }));
  EXPECT_EQ(remote_.pages(), kPages);
  // What is written in one of them meanwhile takes the place of what was to be discarded.
  StoreKind(7, 2, PageKind::kCompressible);
  WriteBack(1);
  remote_.RefuseDiscards(false);
  EXPECT_TRUE(Eventually([this] { return remote_.pages() == 1; }));
  EXPECT_EQ(Read(7), MakePage(7, 2, PageKind::kCompressible));
  // They are counted when they have been sent.
  EXPECT_TRUE(Eventually([this] { return Count(Counter::discards_sent) == 2 * kPages - 1; }));
}

TEST_F(TierWriteback, AFetchOvertakenByATrimAndItsDiscardReadsZeros) {
  Start();
  StoreKind(11, 1, PageKind::kCompressible);
  WriteBack(1);
  const auto pages = FetchDuring({11}, [this] {
    tier_->Invalidate(11, 1);
    ASSERT_TRUE(Eventually([this] { return !remote_.Has(11); }));
  });
  EXPECT_EQ(pages[0], Page{});
  EXPECT_EQ(Count(Counter::fetch_retries), 1u);
}

TEST_F(TierWriteback, AFetchOvertakenByAnOverwriteReadsTheNewerPage) {
  Start();
  StoreKind(11, 1, PageKind::kCompressible);
  WriteBack(1);
  const auto pages = FetchDuring({11}, [this] {
    StoreKind(11, 2, PageKind::kCompressible);
    ASSERT_TRUE(Eventually([this] { return !remote_.Has(11); }));
  });
  EXPECT_EQ(pages[0], MakePage(11, 2, PageKind::kCompressible));
}

TEST_F(TierWriteback, AFetchOvertakenByAnOverwriteAndItsWritebackReadsTheNewerPage) {
  Start();
  StoreKind(11, 1, PageKind::kCompressible);
  WriteBack(1);
  const auto pages = FetchDuring({11}, [this] {
    StoreKind(11, 2, PageKind::kCompressible);
    WriteBack(1);
    ASSERT_EQ(tier_->Stats().pages.remote, 1u);
  });
  EXPECT_EQ(pages[0], MakePage(11, 2, PageKind::kCompressible));
  EXPECT_EQ(Count(Counter::fetch_retries), 1u);
}

TEST_F(TierWriteback, DamagedMissingOrUnavailablePagesAreErrorsNeverZeros) {
  Start();
  for (SlotIndex slot = 0; slot < 4; ++slot) StoreKind(slot, 1, PageKind::kCompressible);
  WriteBack(4);
  remote_.Damage(0);
  remote_.Forget(1);
  ExpectReadFails(0);
  EXPECT_EQ(Count(Counter::fail_checksum), 1u);
  ExpectReadFails(1);
  EXPECT_EQ(Count(Counter::fetch_missing), 2u);
  remote_.FailGets(GetResult::kUnavailable);
  ExpectReadFails(2);
  EXPECT_EQ(Count(Counter::fetch_unavailable), 1u);
  remote_.FailGets(GetResult::kFound);
  EXPECT_EQ(Read(2), First(2)) << "the page is still there once the server is";
  EXPECT_EQ(tier_->Explain(1).verified, false);
  EXPECT_EQ(tier_->Explain(3).verified, true);
  EXPECT_GT(tier_->Explain(3).stored_boot_s, 0u);
}

TEST_F(TierWriteback, WhatIsNoPageIsAnErrorAlsoWhereItsChecksumIsRight) {
  Start();
  StoreKind(0, 1, PageKind::kCompressible);
  WriteBack(1);
  remote_.Truncate(0);
  ExpectReadFails(0);
  EXPECT_EQ(Count(Counter::decompress_fail), 1u);
  EXPECT_EQ(Count(Counter::fail_checksum), 0u);
}

TEST_F(TierWriteback, APageOfAnotherSlotIsAnErrorNeverThatPage) {
  Start();
  for (SlotIndex slot = 0; slot < 2; ++slot) StoreKind(slot, 1, PageKind::kCompressible);
  WriteBack(2);
  remote_.Swap(0, 1);
  EXPECT_EQ(ExpectReadFails(0), Page{});
  EXPECT_EQ(Count(Counter::fail_checksum), 1u);
}

// Its checksum is right: only its version shows that it is not the page that was written last.
TEST_F(TierWriteback, AServerThatWentBackToAnOlderPageIsAnErrorNeverThatPage) {
  Start();
  StoreKind(0, 1, PageKind::kCompressible);
  WriteBack(1);
  remote_.Remember(0);
  StoreKind(0, 2, PageKind::kCompressible);
  WriteBack(1);
  remote_.GoBack(0);
  EXPECT_EQ(ExpectReadFails(0), Page{});
  EXPECT_EQ(Count(Counter::fetch_missing), 1u);
  StoreKind(0, 3, PageKind::kCompressible);
  EXPECT_EQ(Read(0), MakePage(0, 3, PageKind::kCompressible));
}

TEST_F(TierWriteback, OneBadPageOfAFetchDoesNotSpoilTheOthers) {
  Start();
  for (SlotIndex slot = 0; slot < 3; ++slot) StoreKind(slot, 1, PageKind::kCompressible);
  WriteBack(3);
  remote_.Damage(1);
  AwaitedFetch fetch({0, 1, 2});
  tier_->Fetch(&fetch);
  EXPECT_EQ(fetch.Wait(), IoStatus::kIoError);
  EXPECT_EQ(fetch.pages[0], First(0));
  EXPECT_EQ(fetch.pages[2], First(2));
}

TEST_F(TierWriteback, CompactionMakesRoomForAnotherSizeWithoutTheServer) {
  Start(16384, std::uint64_t{4} << 20);
  remote_.SetWritable(false);
  SlotIndex slot = 0;
  while (tier_->Stats().pool_entry_bytes < (std::uint64_t{3} << 20)) {
    StoreKind(slot++, 1, PageKind::kCompressible);
  }
  // Half of the entries go, scattered: room enough, but hardly a free slab.
  for (SlotIndex each = 0; each < slot; each += 2) tier_->Invalidate(each, 1);
  SlotIndex raw = 10000;
  while (tier_->Stats().pool_entry_bytes < (std::uint64_t{3} << 20)) {
    ASSERT_EQ(StoreKind(raw++, 1, PageKind::kRandom), IoStatus::kOk);
  }
  EXPECT_GT(Count(Counter::compactions), 0u);
  for (SlotIndex each = 1; each < slot; each += 2) ASSERT_EQ(Read(each), First(each));
  for (SlotIndex each = 10000; each < raw; ++each) {
    ASSERT_EQ(Read(each), MakePage(each, 1, PageKind::kRandom));
  }
}

TEST_F(TierWriteback, StoppingWithStoresWaitingFailsThemAtOnce) {
  Start(16384, std::uint64_t{4} << 20);
  remote_.SetWritable(false);
  std::thread writer([&] {
    SlotIndex slot = 0;
    while (StoreKind(slot, 1, PageKind::kRandom) == IoStatus::kOk) ++slot;
  });
  ASSERT_TRUE(Eventually([this] { return Count(Counter::pool_limit_hit) > 0; }));
  tier_->StopWriteback();
  writer.join();
}

// v1 is being written; v2 comes and is being written as well; the server has v1, and never v2.
TEST_F(TierWriteback, AnAcknowledgementOfAnOlderVersionIsNotOneOfTheNewer) {
  Start();
  ASSERT_EQ(StoreKind(1, 1, PageKind::kCompressible), IoStatus::kOk);
  remote_.HoldPuts();
  remote_.FailPuts(PutResult::kUnavailable, 1);
  tier_->WriteBackProactively(kUnknownCgroup, 1, 0);
  remote_.WaitForHeld(1);
  ASSERT_EQ(StoreKind(1, 2, PageKind::kCompressible), IoStatus::kOk);
  tier_->WriteBackProactively(kUnknownCgroup, 1, 0);
  remote_.WaitForHeld(2);
  remote_.Release();
  ASSERT_TRUE(Eventually([this] { return Count(Counter::writeback_failed_unavailable) == 1; }));
  EXPECT_EQ(Count(Counter::writeback_raced), 1u);
  EXPECT_EQ(Count(Counter::written_back_pages), 0u);
  EXPECT_EQ(Read(1), MakePage(1, 2, PageKind::kCompressible));
}

}  // namespace
}  // namespace farswap::tier
