// What the tier wants of servers, and what it makes of objects that one of them lists.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "tier/bundle.h"
#include "tier_fixture.h"

namespace farswap::tier {
namespace {

class TierStoredObjects : public TierFixture {
 protected:
  static constexpr SlotIndex kSlots = 64;

  std::vector<StoredObjects::Wanted> Wanted(SlotIndex first = 0) {
    std::vector<StoredObjects::Wanted> wanted;
    tier_->stored_objects()->ListWanted(first, &wanted);
    return wanted;
  }
  std::vector<ObjectKey> WantedKeys() {
    std::vector<ObjectKey> keys;
    for (const auto& object : Wanted()) keys.push_back(object.key);
    return keys;
  }
  // Of those that the test uses.
  std::vector<ObjectKey> KeysThere() const {
    std::vector<ObjectKey> keys;
    for (ObjectKey key = 0; key < kSlots; ++key) {
      if (remote_.Has(key)) keys.push_back(key);
    }
    for (SlotIndex slot = 0; slot < kSlots; slot += kBundleSlots) {
      if (remote_.Has(BundleKeyOf(slot))) keys.push_back(BundleKeyOf(slot));
    }
    return keys;
  }
  void List(const std::vector<ObjectKey>& keys) {
    for (const ObjectKey key : keys) tier_->stored_objects()->OnListed(key);
  }
  void Send(SlotIndex slot, std::uint32_t generation) {
    ASSERT_EQ(StoreKind(slot, generation, PageKind::kCompressible), IoStatus::kOk);
    WriteBack(1);
  }
  void SendBundle(std::uint32_t generation) {
    ASSERT_TRUE(tier_->SetPacking(true).ok());
    for (SlotIndex slot = 0; slot < kBundleSlots; ++slot) StorePage(slot, generation);
    WriteBack(kBundleSlots);
    ASSERT_TRUE(remote_.Has(BundleKeyOf(0)));
  }
};

TEST_F(TierStoredObjects, PagesThatServersAcknowledgedAreWantedInTheirVersion) {
  Start();
  Send(3, 1);
  Send(kShardSlots + 1, 1);
  ASSERT_EQ(Wanted().size(), 1u);
  EXPECT_EQ(Wanted()[0].key, 3u);
  EXPECT_EQ(Wanted()[0].version, SlotVersionOf(remote_.VersionOf(3)));
  EXPECT_EQ(Wanted()[0].pages, 1u);
  ASSERT_EQ(Wanted(kShardSlots).size(), 1u);
  ASSERT_EQ(StoreKind(3, 2, PageKind::kCompressible), IoStatus::kOk);
  EXPECT_TRUE(Wanted().empty()) << "it is only here";
  WriteBack(1);
  EXPECT_EQ(Wanted()[0].version, SlotVersionOf(remote_.VersionOf(3)));
  tier_->Invalidate(3, 1);
  EXPECT_TRUE(Wanted().empty());
}

TEST_F(TierStoredObjects, APageThatIsBeingSentIsNotWantedYet) {
  Start();
  ASSERT_EQ(StoreKind(3, 1, PageKind::kCompressible), IoStatus::kOk);
  remote_.HoldPuts();
  StartWriteback(1);
  remote_.WaitForHeld(1);
  EXPECT_TRUE(Wanted().empty());
  List({3});  // an older page is there
  remote_.Release();
  AwaitJob();
  EXPECT_EQ(Wanted().size(), 1u);
  List({3});
  Send(5, 1);
  tier_->Invalidate(5, 1);
  ASSERT_TRUE(Eventually([&] { return !remote_.Has(5); }));
  EXPECT_TRUE(remote_.Has(3)) << "discards do not reach it";
}

TEST_F(TierStoredObjects, ABundleIsWantedWhileOneOfItsPagesIs) {
  Start();
  SendBundle(1);
  ASSERT_EQ(WantedKeys(), std::vector<ObjectKey>{BundleKeyOf(0)});
  EXPECT_EQ(Wanted()[0].pages, kBundleSlots);
  tier_->Invalidate(0, kBundleSlots - 1);
  EXPECT_EQ(Wanted()[0].pages, 1u);
  List({BundleKeyOf(0), 0});
  ExpectPage(kBundleSlots - 1, 1);
  tier_->Invalidate(kBundleSlots - 1, 1);
  EXPECT_TRUE(Wanted().empty());
  ASSERT_TRUE(Eventually([&] { return !remote_.Has(BundleKeyOf(0)); }));
}

TEST_F(TierStoredObjects, AnObjectThatMissedItsDiscardIsDiscarded) {
  Start();
  Send(3, 1);
  remote_.Remember(3);
  tier_->Invalidate(3, 1);
  ASSERT_TRUE(Eventually([&] { return !remote_.Has(3); }));
  remote_.GoBack(3);
  List({3});
  ASSERT_TRUE(Eventually([&] { return !remote_.Has(3); }));
  SendBundle(1);
  remote_.Remember(BundleKeyOf(0));
  tier_->Invalidate(0, kBundleSlots);
  ASSERT_TRUE(Eventually([&] { return !remote_.Has(BundleKeyOf(0)); }));
  remote_.GoBack(BundleKeyOf(0));
  List({BundleKeyOf(0)});
  ASSERT_TRUE(Eventually([&] { return !remote_.Has(BundleKeyOf(0)); }));
}

TEST_F(TierStoredObjects, KeysThatAreNoneOfTheDeviceAreIgnored) {
  Start(64);
  List({64, kSlotsMax - 1, BundleKeyOf(64), UINT32_MAX, 5});
  Send(5, 1);
  EXPECT_EQ(WantedKeys(), std::vector<ObjectKey>{5});
}

// Objects that were discarded come back at random moments, and later are listed with all others.
TEST_F(TierStoredObjects, OfAnyHistoryWhatIsListedAndNotWantedGoes) {
  Start();
  std::mt19937_64 random(7);
  std::map<SlotIndex, std::uint32_t> generations;
  std::vector<ObjectKey> remembered;
  for (std::uint32_t round = 1; round <= 40; ++round) {
    ASSERT_TRUE(tier_->SetPacking(random() % 2 == 0).ok());
    for (int i = 0; i < 24; ++i) {
      const auto slot = static_cast<SlotIndex>(random() % kSlots);
      if (random() % 3 == 0) {
        tier_->Invalidate(slot, 1);
        generations.erase(slot);
      } else {
        StorePage(slot, round);
        generations[slot] = round;
      }
    }
    WriteBack(1 + random() % 32);
    for (const ObjectKey key : KeysThere()) {
      if (random() % 4 != 0) continue;
      remote_.Remember(key);
      remembered.push_back(key);
    }
    if (round % 8 != 0) continue;
    // What is there has a discard before it that may be under way.
    ASSERT_TRUE(Eventually([&] { return KeysThere() == WantedKeys(); }));
    for (const ObjectKey key : remembered) {
      if (!remote_.Has(key)) remote_.GoBack(key);
    }
    List(KeysThere());
    ASSERT_TRUE(Eventually([&] { return KeysThere() == WantedKeys(); })) << "round " << round;
    for (const auto& [slot, generation] : generations) ExpectPage(slot, generation);
    remembered.clear();
  }
}

}  // namespace
}  // namespace farswap::tier
