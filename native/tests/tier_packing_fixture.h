// A tier that sends neighbours as bundles, and one bundle that most tests are about.
#pragma once

#include "tier/bundle.h"
#include "tier_fixture.h"

namespace farswap::tier {

class TierPacking : public TierFixture {
 protected:
  static constexpr SlotIndex kFirst = 32;  // of the bundle that most tests are about
  static constexpr SlotIndex kEnd = kFirst + kBundleSlots;
  static constexpr ObjectKey kKey = BundleKeyOf(kFirst);

  void StartPacking(std::uint64_t slots = 16384) {
    Start(slots);
    ASSERT_TRUE(tier_->SetPacking(true).ok());
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

  // A bundle of generation 1 is on its way, and newer pages are in its slots.
  void OvertakeBundle() {
    StoreBundle(1);
    remote_.HoldPuts();
    StartWriteback(kBundleSlots);
    remote_.WaitForHeld(1);
    tier_->CancelManualWriteback();
    StoreBundle(2);
  }

  void ExpectBundle(std::uint32_t generation) {
    for (SlotIndex slot = kFirst; slot < kEnd; ++slot) ExpectPage(slot, generation);
  }
};

}  // namespace farswap::tier
