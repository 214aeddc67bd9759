// Stores that wait for room and other events of their slots: the last page wins.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tier_store_wait_fixture.h"

namespace farswap::tier {
namespace {

TEST_P(WaitingStore, LeavesTheSlotAsItIsUntilItIsOver) {
  Fill();
  AwaitedStore store;
  Wait(5, &store, 2);
  EXPECT_EQ(Read(5), Stored(5));
  tier_->Invalidate(3, 1);
  EXPECT_EQ(store.Wait(), IoStatus::kOk);
  EXPECT_EQ(Read(5), Stored(5, 2));
}

TEST_P(WaitingStore, IsSupersededByANewerStoreOfItsSlot) {
  Fill();
  AwaitedStore store;
  Wait(kFirstNew, &store);
  ASSERT_EQ(StoreKind(kFirstNew, 2, PageKind::kSameFilled), IoStatus::kOk);
  EXPECT_EQ(store.Wait(), IoStatus::kOk) << "there is no room for it, nor need of any";
  tier_->Invalidate(3, 1);
  EXPECT_EQ(Read(kFirstNew), MakePage(kFirstNew, 2, PageKind::kSameFilled));
}

TEST_P(WaitingStore, IsSupersededByATrimOfItsSlot) {
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

TEST_P(WaitingStore, IsNotSupersededByWhatHappensToAnotherSlot) {
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

TEST_P(WaitingStore, OfTwoForOneSlotTheLaterOneWins) {
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
TEST_F(WaitingStoreAtALimit, OfTwoForOneSlotTheLaterOneWinsAlsoWhereItIsServedFirst) {
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

TEST_P(WaitingStore, IsNotSupersededByALaterOneThatIsCancelled) {
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
TEST_P(WaitingStore, IsNotSupersededByTheNoticeOfAFreedSlot) {
  Fill();
  UseWords();
  KernelFrees(5);
  AwaitedStore store;
  Wait(5, &store, 2);
  EXPECT_TRUE(tier_->OnSlotFree(5));
  EXPECT_EQ(store.Wait(), IoStatus::kOk);
  EXPECT_EQ(Read(5), Stored(5, 2));
}

TEST_P(WaitingStore, IsSupersededWhenTheKernelFreesItsSlotMeanwhile) {
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
TEST_P(WaitingStore, IsSupersededInItsTurnWhenTheKernelHasFreedItsSlotMeanwhile) {
  Fill();
  UseWords();
  for (const SlotIndex slot : {kFirstNew, kFirstNew + 1}) KernelWrites(slot, kFull);
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
TEST_P(WaitingStore, OfASlotInUseIsSupersededInNoOrderOfWritesFreesAndNotices) {
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

TEST_P(WaitingStore, IsRefusedOnlyAfterThoseOfItsSlotThatCameBefore) {
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

}  // namespace
}  // namespace farswap::tier
