// Stores that wait for room: what ends their waiting, in which order, and what they hold up.
#include <gtest/gtest.h>

#include <array>

#include "tier_store_wait_fixture.h"

namespace farswap::tier {
namespace {

using std::chrono::milliseconds;

TEST_P(WaitingStore, EndsWithATrim) {
  Fill();
  AwaitedStore store;
  Wait(kFirstNew, &store);
  LetItBeTried();
  EXPECT_FALSE(store.ready());
  tier_->Invalidate(3, 1);
  ExpectStored(&store, kFirstNew);
}

TEST_P(WaitingStore, EndsWithAnOverwriteThatTakesLess) {
  Fill();
  AwaitedStore store;
  Wait(kFirstNew, &store);
  LetItBeTried();
  ASSERT_EQ(StoreKind(3, 2, PageKind::kZero), IoStatus::kOk);
  ExpectStored(&store, kFirstNew);
}

TEST_P(WaitingStore, EndsWithTheNoticeOfAFreedSlot) {
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

TEST_P(WaitingStore, EndsWithWriteback) {
  Fill();
  AwaitedStore store;
  Wait(kFirstNew, &store);
  remote_.SetWritable(true);
  EXPECT_EQ(store.Wait(), IoStatus::kOk);
  EXPECT_GT(Count(Counter::written_back_pages), 0u);
}

TEST_P(WaitingStore, EndsWithAHigherLimit) {
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

TEST_F(WaitingStoreAtALimit, EndsWithTheCgroup) {
  Fill();
  AwaitedStore store;
  Wait(kFirstNew, &store);
  LetItBeTried();
  tier_->RemoveCgroup(kFull);
  ExpectStored(&store, kFirstNew);
}

TEST_F(WaitingStoreAtALimit, HoldsUpNoOtherCgroup) {
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

TEST_F(WaitingStoreInThePool, HoldsUpNoneForWhoseSizeThereIsRoom) {
  Fill();
  AwaitedStore first;
  Wait(kFirstNew, &first);
  EXPECT_EQ(TryStore(kFirstNew + 1, PageKind::kCompressible, nullptr), IoStatus::kOk);
  EXPECT_TRUE(tier_->CancelStore(&first));
}

TEST_F(WaitingStoreAtALimit, HoldsUpASmallerOneThatWouldFit) {
  Fill();
  AwaitedStore first;
  AwaitedStore second;
  Wait(kFirstNew, &first);
  ASSERT_EQ(TryStore(kFirstNew + 1, PageKind::kCompressible, &second), IoStatus::kPending);
  Limit(2 * kGroupLimitMin);
  EXPECT_EQ(second.Wait(), IoStatus::kOk);
  EXPECT_TRUE(first.ready());
}

TEST_F(WaitingStoreAtALimit, IsNotOvertakenByASmallerOne) {
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

TEST_F(WaitingStoreInThePool, HoldsUpNoneOfAnotherSize) {
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

TEST_F(WaitingStoreAtALimit, GoesOnInThePoolsLineWhenThatIsWhatIsFull) {
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

TEST_P(WaitingStore, OfTheSameRoomIsServedInOrder) {
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

TEST_P(WaitingStore, ThatIsCancelledNeverHappened) {
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

TEST_P(WaitingStore, EndsWhenWritebackHasFreedNothingForTooLong) {
  FillAndStopTheClock();
  AwaitedStore store;
  Wait(5, &store, 2);
  LetPass(kStoreWait);
  EXPECT_EQ(store.Wait(), IoStatus::kNoSpace);
  EXPECT_EQ(Read(5), Page{}) << "older bytes must not come back";
  EXPECT_EQ(Refused(), 1u);
  EXPECT_EQ(Count(Counter::lost_failed_store), 1u);
}

TEST_P(WaitingStore, StartsOverWhenOneBeforeItHasFoundRoomWithoutWriteback) {
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
TEST_P(WaitingStore, ThatStillFitsIsNotRefusedWithThoseBeforeIt) {
  FillAndStopTheClock();
  AwaitedStore first;
  AwaitedStore second;
  Wait(5, &first, 2);
  Wait(kFirstNew, &second);
  LetPass(kStoreWait);
  EXPECT_EQ(first.Wait(), IoStatus::kNoSpace);
  EXPECT_EQ(second.Wait(), IoStatus::kOk);
}

TEST_F(WaitingStoreAtALimit, EndsAtOnceWhereNothingMayLeave) {
  Fill();
  AwaitedStore store;
  Wait(5, &store, 2);
  Limit(kGroupLimitMin, /*writeback=*/false);
  EXPECT_EQ(store.Wait(), IoStatus::kNoSpace);
  EXPECT_EQ(StoreKind(kFirstNew, 2, PageKind::kRandom), IoStatus::kOk) << "instead of slot 5's";
  EXPECT_EQ(StoreKind(kFirstNew + 1, 2, PageKind::kRandom), IoStatus::kNoSpace);
}

TEST_P(WaitingStore, EndsWithWritebackForGood) {
  Fill();
  std::array<AwaitedStore, 3> stores;
  for (SlotIndex i = 0; i < stores.size(); ++i) Wait(kFirstNew + i, &stores[i]);
  tier_->StopWriteback();
  for (AwaitedStore& store : stores) EXPECT_EQ(store.Wait(), IoStatus::kNoSpace);
  AwaitedStore late;
  EXPECT_EQ(TryStore(kFirstNew, PageKind::kRandom, &late), IoStatus::kNoSpace);
}

INSTANTIATE_TEST_SUITE_P(InThePoolAndAtALimit, WaitingStore, ::testing::Bool(), [](const auto& at) {
  return at.param ? std::string("AtALimit") : std::string("InThePool");
});

}  // namespace
}  // namespace farswap::tier
