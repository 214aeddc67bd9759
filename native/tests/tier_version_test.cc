// Slots whose version wraps, as it does after 2^32 changes of one slot.
#include <limits>

#include "tier_open_fixture.h"

namespace farswap::tier {
namespace {

constexpr Version kLast = std::numeric_limits<Version>::max();

class TierVersion : public OpenTierFixture {
 protected:
  static constexpr SlotIndex kSlot = 3;
  static constexpr SlotIndex kOther = 4;
  static constexpr SlotIndex kLater = 900;  // its discards are collected after those of kSlot

  // As after so many changes. Servers must have nothing of the slot.
  void SetVersion(SlotIndex slot, Version version) {
    const auto lock = pages_->Lock(slot);
    ASSERT_NE(pages_->Get(slot).state, SlotState::kRemote);
    records_[slot].version = version;
  }

  // A page of generation 1 with the last version, on the server.
  void SendLast(SlotIndex slot) {
    SetVersion(slot, kLast - 1);
    StorePage(slot, 1);
    WriteBack(1);
    ASSERT_EQ(remote_.VersionOf(slot), kLast);
  }
};

TEST_F(TierVersion, ThatWrappedIsStillHigherToServers) {
  SendLast(kSlot);
  remote_.RefuseDiscards(true);  // the server keeps what it has until it gets the next
  StorePage(kSlot, 2);
  WriteBack(1);
  EXPECT_EQ(StateOf(kSlot), "remote");
  EXPECT_GT(remote_.VersionOf(kSlot), kLast);
  ExpectPage(kSlot, 2);
}

TEST_F(TierVersion, ThatWrappedWithALostAcknowledgementIsStillHigherToServers) {
  SetVersion(kSlot, kLast - 1);
  StorePage(kSlot, 1);
  remote_.LosePutAnswers();
  StartWriteback(1);
  ASSERT_TRUE(Eventually([this] { return Count(Counter::writeback_failed_unavailable) > 0; }));
  remote_.FailPuts(PutResult::kAcked);
  ASSERT_TRUE(Eventually([this] { return StateOf(kSlot) == "remote"; }));
  EXPECT_GT(remote_.VersionOf(kSlot), kLast);
  ExpectPage(kSlot, 1);
}

TEST_F(TierVersion, OfADiscardIsAboveThoseBeforeItWrapped) {
  SendLast(kSlot);
  remote_.RefuseDiscards(true);
  for (int change = 0; change < 3; ++change) {
    ASSERT_EQ(StoreKind(kSlot, 1, PageKind::kSameFilled), IoStatus::kOk);
  }
  remote_.RefuseDiscards(false);
  EXPECT_TRUE(Eventually([this] { return !remote_.Has(kSlot); }));
}

// The discard of the page before is about to be sent while the page is on its way, and comes to the
// server behind it.
TEST_F(TierVersion, OfADiscardIsNotAboveThatOfAPageWhichWasSentBeforeAnotherSlotsVersionWrapped) {
  for (const SlotIndex slot : {kSlot, kLater}) StorePage(slot, 1);
  WriteBack(2);
  remote_.RefuseDiscards(true);
  StorePage(kSlot, 2);
  remote_.HoldPuts();
  StartWriteback(1);
  remote_.WaitForHeld(1);
  ASSERT_EQ(StateOf(kSlot), "writing");
  SetVersion(kOther, kLast);
  tier_->Invalidate(kLater, 1);
  ASSERT_EQ(StoreKind(kOther, 1, PageKind::kSameFilled), IoStatus::kOk);
  remote_.HoldDiscards();
  remote_.RefuseDiscards(false);
  ASSERT_TRUE(Eventually([this] { return remote_.held_discards() > 0; }));
  remote_.Release();
  ASSERT_TRUE(Eventually([this] { return StateOf(kSlot) == "remote"; }));
  remote_.ReleaseDiscards();
  ExpectPage(kSlot, 2);
  EXPECT_TRUE(Eventually([this] { return !remote_.Has(kLater); }));
}

TEST_F(TierVersion, ThatWrappedComesAndGoesInABundle) {
  ASSERT_TRUE(tier_->SetPacking(true).ok());
  SetVersion(kSlot, kLast);
  StorePage(kSlot, 1);
  StorePage(kOther, 1);
  WriteBack(2);
  EXPECT_EQ(Count(Counter::packed), 2u);
  EXPECT_EQ(StateOf(kOther), "remote");
  ExpectPage(kSlot, 1);
  ExpectPage(kOther, 1);
  tier_->Invalidate(kSlot, 2);
  EXPECT_TRUE(Eventually([this] { return remote_.pages() == 0; }));
}

}  // namespace
}  // namespace farswap::tier
