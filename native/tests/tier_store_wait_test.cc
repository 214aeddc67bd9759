// Stores that wait for room: what ends their waiting, in which order, and what they hold up.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tier_fixture.h"

namespace farswap::tier {
namespace {

using std::chrono::milliseconds;

constexpr CgroupId kFull = 7;
constexpr CgroupId kOther = 8;
constexpr SlotIndex kFirstNew = 8000;  // no page is there
constexpr SlotIndex kSmall = 15000;    // its page lets the pool have room of its size

// The servers take nothing, and there is no room: in the pool, or at the limit of a cgroup.
class StoreWaitFixture : public TierFixture {
 protected:
  explicit StoreWaitFixture(bool at_limit) : at_limit_(at_limit) {}

  void Fill(milliseconds store_wait = kHangGuard) {
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

  static constexpr milliseconds kStoreWait{4000};
  static constexpr std::uint64_t kPoolBytes = std::uint64_t{8} << 20;
  const bool at_limit_;
  SlotIndex end_ = 0;
};

class StoreWait : public StoreWaitFixture, public ::testing::WithParamInterface<bool> {
 protected:
  StoreWait() : StoreWaitFixture(/*at_limit=*/GetParam()) {}
};

class StoreWaitInThePool : public StoreWaitFixture {
 protected:
  StoreWaitInThePool() : StoreWaitFixture(/*at_limit=*/false) {}
};

class StoreWaitAtALimit : public StoreWaitFixture {
 protected:
  StoreWaitAtALimit() : StoreWaitFixture(/*at_limit=*/true) {}
};

TEST_P(StoreWait, EndsWithATrim) {
  Fill();
  AwaitedStore store;
  Wait(kFirstNew, &store);
  LetItBeTried();
  EXPECT_FALSE(store.ready());
  tier_->Invalidate(3, 1);
  ExpectStored(&store, kFirstNew);
}

TEST_P(StoreWait, EndsWithAnOverwriteThatTakesLess) {
  Fill();
  AwaitedStore store;
  Wait(kFirstNew, &store);
  LetItBeTried();
  ASSERT_EQ(StoreKind(3, 2, PageKind::kZero), IoStatus::kOk);
  ExpectStored(&store, kFirstNew);
}

TEST_P(StoreWait, EndsWithTheNoticeOfAFreedSlot) {
  Fill();
  UseWords();
  KernelWrites(kFirstNew, kFull);
  AwaitedStore store;
  Wait(kFirstNew, &store);
  LetItBeTried();
  KernelFrees(3);
  EXPECT_TRUE(tier_->OnSlotFree(3));
  ExpectStored(&store, kFirstNew);
}

TEST_P(StoreWait, EndsWithWriteback) {
  Fill();
  AwaitedStore store;
  Wait(kFirstNew, &store);
  remote_.SetWritable(true);
  EXPECT_EQ(store.Wait(), IoStatus::kOk);
  EXPECT_GT(Count(Counter::written_back_pages), 0u);
}

TEST_P(StoreWait, EndsWithAHigherLimit) {
  Fill();
  AwaitedStore store;
  Wait(kFirstNew, &store);
  LetItBeTried();
  if (at_limit_) {
    Limit(2 * kGroupLimitMin);
  } else {
    SetPoolLimit(kPoolBytes);
  }
  ExpectStored(&store, kFirstNew);
}

TEST_F(StoreWaitAtALimit, EndsWithTheCgroup) {
  Fill();
  AwaitedStore store;
  Wait(kFirstNew, &store);
  LetItBeTried();
  tier_->RemoveCgroup(kFull);
  ExpectStored(&store, kFirstNew);
}

TEST_F(StoreWaitAtALimit, HoldsUpNoOtherCgroup) {
  Fill();
  KernelWrites(kFirstNew + 1, kOther);
  UseWords();
  AwaitedStore store;
  Wait(kFirstNew, &store);
  EXPECT_EQ(TryStore(kFirstNew + 1, PageKind::kRandom, nullptr), IoStatus::kOk);
  EXPECT_FALSE(store.ready());
  tier_->Invalidate(3, 1);
  EXPECT_EQ(store.Wait(), IoStatus::kOk);
}

TEST_F(StoreWaitInThePool, HoldsUpNoneForWhoseSizeThereIsRoom) {
  Fill();
  AwaitedStore first;
  Wait(kFirstNew, &first);
  EXPECT_EQ(TryStore(kFirstNew + 1, PageKind::kCompressible, nullptr), IoStatus::kOk);
  EXPECT_TRUE(tier_->CancelStore(&first));
}

TEST_F(StoreWaitAtALimit, HoldsUpASmallerOneThatWouldFit) {
  Fill();
  AwaitedStore first;
  AwaitedStore second;
  Wait(kFirstNew, &first);
  ASSERT_EQ(TryStore(kFirstNew + 1, PageKind::kCompressible, &second), IoStatus::kPending);
  Limit(2 * kGroupLimitMin);
  EXPECT_EQ(second.Wait(), IoStatus::kOk);
  EXPECT_TRUE(first.ready());
}

TEST_F(StoreWaitAtALimit, IsNotOvertakenByASmallerOne) {
  Fill(2 * kHangGuard);  // it is not the end of this that has it stored
  ASSERT_EQ(StoreKind(3, 2, PageKind::kCompressible), IoStatus::kOk);
  for (SlotIndex slot = kSmall; TryStore(slot, PageKind::kCompressible, nullptr) == IoStatus::kOk;
       ++slot) {
  }
  AwaitedStore first;
  AwaitedStore second;
  Wait(kFirstNew, &first);
  ASSERT_EQ(TryStore(kFirstNew + 2, PageKind::kCompressible, &second), IoStatus::kPending);
  tier_->Invalidate(kSmall, 1);
  LetItBeTried();
  EXPECT_FALSE(second.ready()) << "though it fits";
  EXPECT_TRUE(tier_->CancelStore(&first));
  EXPECT_TRUE(Eventually([&] { return second.ready(); }));
  EXPECT_EQ(second.Wait(), IoStatus::kOk);
}

TEST_F(StoreWaitInThePool, HoldsUpNoneOfAnotherSize) {
  Fill();
  SlotIndex small = kSmall + 1;
  while (TryStore(small, PageKind::kCompressible, nullptr) == IoStatus::kOk) ++small;
  AwaitedStore first;
  AwaitedStore second;
  Wait(kFirstNew, &first);
  ASSERT_EQ(TryStore(kFirstNew + 2, PageKind::kCompressible, &second), IoStatus::kPending);
  tier_->Invalidate(kSmall, 1);
  EXPECT_EQ(second.Wait(), IoStatus::kOk);
  ASSERT_GT(small, kSmall + 1);
  tier_->Invalidate(kSmall + 1, 1);
  EXPECT_EQ(TryStore(kFirstNew + 3, PageKind::kCompressible, nullptr), IoStatus::kOk)
      << "no store waits for room of that size any more";
  EXPECT_FALSE(first.ready());
  EXPECT_TRUE(tier_->CancelStore(&first));
}

TEST_F(StoreWaitAtALimit, GoesOnInThePoolsLineWhenThatIsWhatIsFull) {
  Fill();
  tier_->SetLabel(kOther);
  ASSERT_EQ(StoreKind(kSmall, 1, PageKind::kCompressible), IoStatus::kOk);
  for (SlotIndex slot = end_; TryStore(slot, PageKind::kRandom, nullptr) == IoStatus::kOk;) ++slot;
  tier_->SetLabel(kFull);
  AwaitedStore store;
  Wait(kFirstNew, &store);
  Limit(4 * kGroupLimitMin);
  ASSERT_TRUE(Eventually([this] { return Count(Counter::pool_limit_hit) == 1; }));
  EXPECT_EQ(Read(kFirstNew), Page{});  // under the lock that is held while it changes its line
  EXPECT_EQ(TryStore(kFirstNew + 1, PageKind::kCompressible, nullptr), IoStatus::kOk)
      << "no store waits at the limit any more, and the pool has room of that size";
  tier_->Invalidate(end_, 1);
  ExpectStored(&store, kFirstNew);
}

TEST_P(StoreWait, OfTheSameRoomIsServedInOrder) {
  Fill();
  constexpr std::size_t kStores = 5;
  std::array<AwaitedStore, kStores> stores;
  for (SlotIndex i = 0; i < kStores; ++i) Wait(kFirstNew + i, &stores[i]);
  for (SlotIndex i = 0; i < kStores; ++i) {
    for (SlotIndex later = i; later < kStores; ++later) EXPECT_FALSE(stores[later].ready());
    tier_->Invalidate(3 + i, 1);
    EXPECT_EQ(stores[i].Wait(), IoStatus::kOk) << i;
  }
}

TEST_P(StoreWait, LeavesTheSlotAsItIsUntilItIsOver) {
  Fill();
  AwaitedStore store;
  Wait(5, &store, 2);
  EXPECT_EQ(Read(5), Stored(5));
  tier_->Invalidate(3, 1);
  EXPECT_EQ(store.Wait(), IoStatus::kOk);
  EXPECT_EQ(Read(5), Stored(5, 2));
}

TEST_P(StoreWait, IsSupersededByANewerStoreOfItsSlot) {
  Fill();
  AwaitedStore store;
  Wait(kFirstNew, &store);
  ASSERT_EQ(StoreKind(kFirstNew, 2, PageKind::kSameFilled), IoStatus::kOk);
  EXPECT_EQ(store.Wait(), IoStatus::kOk) << "there is no room for it, nor need of any";
  tier_->Invalidate(3, 1);
  EXPECT_EQ(Read(kFirstNew), MakePage(kFirstNew, 2, PageKind::kSameFilled));
}

TEST_P(StoreWait, IsSupersededByATrimOfItsSlot) {
  Fill();
  AwaitedStore of_new_slot;
  AwaitedStore of_old_slot;
  Wait(kFirstNew, &of_new_slot);
  tier_->Invalidate(kFirstNew, 1);
  EXPECT_EQ(of_new_slot.Wait(), IoStatus::kOk);
  Wait(5, &of_old_slot, 2);
  tier_->Invalidate(5, 1);
  EXPECT_EQ(of_old_slot.Wait(), IoStatus::kOk);
  EXPECT_EQ(Read(kFirstNew), Page{});
  EXPECT_EQ(Read(5), Page{});
}

TEST_P(StoreWait, IsNotSupersededByWhatHappensToAnotherSlot) {
  Fill();
  AwaitedStore store;
  Wait(kFirstNew, &store);
  // With any other slots in the queue.
  for (SlotIndex slot = kFirstNew % 64; slot < 16384; slot += 64) {
    if (slot >= end_ && slot != kFirstNew) tier_->Invalidate(slot, 1);
  }
  LetItBeTried();
  EXPECT_FALSE(store.ready());
  tier_->Invalidate(3, 1);
  ExpectStored(&store, kFirstNew);
}

TEST_P(StoreWait, OfTwoForOneSlotTheLaterOneWins) {
  Fill();
  AwaitedStore older;
  AwaitedStore newer;
  Wait(kFirstNew, &older, 1);
  Wait(kFirstNew, &newer, 2);
  tier_->Invalidate(3, 2);
  EXPECT_EQ(older.Wait(), IoStatus::kOk);
  EXPECT_EQ(newer.Wait(), IoStatus::kOk);
  EXPECT_EQ(Read(kFirstNew), Stored(kFirstNew, 2));
}

// The older one comes into the pool's line behind the newer, since its cgroup is another one now.
TEST_F(StoreWaitAtALimit, OfTwoForOneSlotTheLaterOneWinsAlsoWhereItIsServedFirst) {
  Fill();
  tier_->SetLabel(kOther);
  for (SlotIndex slot = end_; TryStore(slot, PageKind::kRandom, nullptr) == IoStatus::kOk;) ++slot;
  tier_->SetLabel(kFull);
  AwaitedStore older;
  AwaitedStore newer;
  Wait(kFirstNew, &older, 1);
  tier_->SetLabel(kOther);
  Wait(kFirstNew, &newer, 2);
  ASSERT_TRUE(Eventually([this] { return Count(Counter::pool_limit_hit) == 2; }));
  tier_->Invalidate(3, 2);
  EXPECT_EQ(newer.Wait(), IoStatus::kOk);
  EXPECT_EQ(older.Wait(), IoStatus::kOk);
  EXPECT_EQ(Read(kFirstNew), Stored(kFirstNew, 2));
}

TEST_P(StoreWait, IsNotSupersededByALaterOneThatIsCancelled) {
  Fill();
  AwaitedStore older;
  AwaitedStore newer;
  Wait(kFirstNew, &older, 1);
  Wait(kFirstNew, &newer, 2);
  EXPECT_TRUE(tier_->CancelStore(&newer));
  tier_->Invalidate(3, 1);
  EXPECT_EQ(older.Wait(), IoStatus::kOk);
  EXPECT_EQ(Read(kFirstNew), Stored(kFirstNew, 1));
}

// The kernel freed the page that was there before, and the notification is late.
TEST_P(StoreWait, IsNotSupersededByTheNoticeOfAFreedSlot) {
  Fill();
  UseWords();
  KernelFrees(5);
  AwaitedStore store;
  Wait(5, &store, 2);
  EXPECT_TRUE(tier_->OnSlotFree(5));
  EXPECT_EQ(store.Wait(), IoStatus::kOk);
  EXPECT_EQ(Read(5), Stored(5, 2));
}

TEST_P(StoreWait, IsSupersededWhenTheKernelFreesItsSlotMeanwhile) {
  Fill();
  UseWords();
  for (const SlotIndex slot : {SlotIndex{5}, kFirstNew}) {
    KernelWrites(slot, kFull);
    AwaitedStore store;
    Wait(slot, &store, 2);
    KernelFrees(slot);
    EXPECT_TRUE(tier_->OnSlotFree(slot));
    EXPECT_EQ(store.Wait(), IoStatus::kOk);
    EXPECT_EQ(Read(slot), Page{});
    EXPECT_FALSE(tier_->OnSlotFree(slot));
    ASSERT_EQ(Count(Counter::early_frees), 1u) << "that of slot 5";
    // The room of slot 5 again.
    if (slot == 5) {
      ASSERT_EQ(StoreKind(end_, 1, PageKind::kRandom), IoStatus::kOk);
    }
  }
}

// The notice of that has not come when there is room.
TEST_P(StoreWait, IsSupersededInItsTurnWhenTheKernelHasFreedItsSlotMeanwhile) {
  Fill();
  UseWords();
  for (const SlotIndex slot : {kFirstNew, kFirstNew + 1}) {
    KernelWrites(slot, kFull);
  }
  AwaitedStore freed;
  AwaitedStore next;
  Wait(kFirstNew, &freed);
  Wait(kFirstNew + 1, &next);
  KernelFrees(kFirstNew);
  tier_->Invalidate(3, 1);
  EXPECT_EQ(freed.Wait(), IoStatus::kOk);
  EXPECT_EQ(next.Wait(), IoStatus::kOk) << "the room was not taken";
  EXPECT_EQ(Read(kFirstNew), Page{});
  EXPECT_EQ(Read(kFirstNew + 1), Stored(kFirstNew + 1));
}

// The kernel writes a page (W), frees it (F) and writes another one (w); the stores of both come to
// us (S, s) some time after they were written, and notices (n), which may also be of what was
// before all of this, at any time. In every order in which that can happen the last page is there
// in the end.
TEST_P(StoreWait, OfASlotInUseIsSupersededInNoOrderOfWritesFreesAndNotices) {
  Fill();
  UseWords();
  std::string order = "FSWnnsw";
  ASSERT_TRUE(std::ranges::is_sorted(order));
  SlotIndex slot = kFirstNew;
  do {
    const auto before = [&](char one, char other) { return order.find(one) < order.find(other); };
    if (!before('W', 'F') || !before('F', 'w') || !before('W', 'S') || !before('w', 's') ||
        !before('S', 's')) {
      continue;
    }
    AwaitedStore first;
    AwaitedStore second;
    KernelFrees(++slot);
    for (const char event : order) {
      if (event == 'W' || event == 'w') KernelWrites(slot, kFull);
      if (event == 'F') KernelFrees(slot);
      if (event == 'S') Wait(slot, &first, 1);
      if (event == 's') Wait(slot, &second, 2);
      if (event == 'n') tier_->OnSlotFree(slot);
    }
    tier_->Invalidate(3, 2);
    EXPECT_EQ(first.Wait(), IoStatus::kOk);
    EXPECT_EQ(second.Wait(), IoStatus::kOk);
    EXPECT_EQ(Read(slot), Stored(slot, 2)) << order;
    tier_->Invalidate(slot, 1);
    for (SlotIndex filler = 3; filler < 5; ++filler) {
      ASSERT_EQ(StoreKind(filler, 1, PageKind::kRandom), IoStatus::kOk);
    }
  } while (std::ranges::next_permutation(order).found);
  EXPECT_EQ(slot, kFirstNew + 63) << "so many orders";
}

TEST_P(StoreWait, ThatIsCancelledNeverHappened) {
  Fill();
  AwaitedStore store;
  AwaitedStore next;
  Wait(5, &store, 2);
  Wait(kFirstNew, &next);
  EXPECT_TRUE(tier_->CancelStore(&store));
  EXPECT_FALSE(tier_->CancelStore(&store));
  tier_->Invalidate(3, 2);
  EXPECT_EQ(next.Wait(), IoStatus::kOk);
  EXPECT_FALSE(tier_->CancelStore(&next));
  EXPECT_EQ(Read(5), Stored(5));
  EXPECT_FALSE(store.ready());
}

TEST_P(StoreWait, EndsWhenWritebackHasFreedNothingForTooLong) {
  FillAndStopTheClock();
  AwaitedStore store;
  Wait(5, &store, 2);
  LetPass(kStoreWait);
  EXPECT_EQ(store.Wait(), IoStatus::kNoSpace);
  EXPECT_EQ(Read(5), Page{}) << "older bytes must not come back";
  EXPECT_EQ(Refused(), 1u);
  EXPECT_EQ(Count(Counter::lost_failed_store), 1u);
}

TEST_P(StoreWait, StartsOverWhenOneBeforeItHasFoundRoomWithoutWriteback) {
  FillAndStopTheClock();
  AwaitedStore first;
  AwaitedStore second;
  Wait(kFirstNew, &first);
  Wait(kFirstNew + 2, &second);
  LetPass(kStoreWait / 2);  // half of the time that both have
  tier_->Invalidate(5, 1);
  EXPECT_EQ(first.Wait(), IoStatus::kOk);
  LetPass(kStoreWait * 3 / 4);
  LetItBeTried();
  EXPECT_FALSE(second.ready());
  LetPass(kStoreWait / 4);
  EXPECT_EQ(second.Wait(), IoStatus::kNoSpace);
}

// One entry fits after that: the room of the first that was refused.
TEST_P(StoreWait, ThatStillFitsIsNotRefusedWithThoseBeforeIt) {
  FillAndStopTheClock();
  AwaitedStore first;
  AwaitedStore second;
  Wait(5, &first, 2);
  Wait(kFirstNew, &second);
  LetPass(kStoreWait);
  EXPECT_EQ(first.Wait(), IoStatus::kNoSpace);
  EXPECT_EQ(second.Wait(), IoStatus::kOk);
}

TEST_F(StoreWaitAtALimit, EndsAtOnceWhereNothingMayLeave) {
  Fill();
  AwaitedStore store;
  Wait(5, &store, 2);
  Limit(kGroupLimitMin, /*writeback=*/false);
  EXPECT_EQ(store.Wait(), IoStatus::kNoSpace);
  EXPECT_EQ(StoreKind(kFirstNew, 2, PageKind::kRandom), IoStatus::kOk) << "instead of slot 5's";
  EXPECT_EQ(StoreKind(kFirstNew + 1, 2, PageKind::kRandom), IoStatus::kNoSpace);
}

TEST_P(StoreWait, EndsWithWritebackForGood) {
  Fill();
  std::array<AwaitedStore, 3> stores;
  for (SlotIndex i = 0; i < stores.size(); ++i) Wait(kFirstNew + i, &stores[i]);
  tier_->StopWriteback();
  for (AwaitedStore& store : stores) EXPECT_EQ(store.Wait(), IoStatus::kNoSpace);
  AwaitedStore late;
  EXPECT_EQ(TryStore(kFirstNew, PageKind::kRandom, &late), IoStatus::kNoSpace);
}

TEST_P(StoreWait, IsRefusedOnlyAfterThoseOfItsSlotThatCameBefore) {
  Fill();
  AwaitedStore older;
  AwaitedStore newer;
  Wait(kFirstNew, &older, 1);
  Wait(kFirstNew, &newer, 2);
  tier_->StopWriteback();
  EXPECT_EQ(older.Wait(), IoStatus::kNoSpace);
  EXPECT_EQ(newer.Wait(), IoStatus::kNoSpace);
  EXPECT_EQ(Read(kFirstNew), Page{});
}

INSTANTIATE_TEST_SUITE_P(InThePoolAndAtALimit, StoreWait, ::testing::Bool(), [](const auto& at) {
  return at.param ? std::string("AtALimit") : std::string("InThePool");
});

}  // namespace
}  // namespace farswap::tier
