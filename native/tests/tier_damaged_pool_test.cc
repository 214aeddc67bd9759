// What becomes of a page whose bytes changed in the pool: an error when it is read, unless a server
// has it as well, and never something that is sent to one.
#include <atomic>
#include <thread>

#include "tier_open_fixture.h"

namespace farswap::tier {
namespace {

class TierDamagedPool : public OpenTierFixture {
 protected:
  static constexpr SlotIndex kSlot = 3;
  // Both still decompress when they are damaged, to another page.
  const Page letters_ = PageOfLetters(1, 16);                 // raw, until zstd comes
  const Page half_random_ = PageLikeItsNeighbours(kSlot, 1);  // LZ4

  // Changes what the slot's page is kept as, if it is in that state.
  template <typename Change>
  bool ChangeEntry(SlotIndex slot, SlotState state, Change change) {
    const auto lock = pages_->Lock(slot);
    SlotRecord record = pages_->Get(slot);
    if (record.state != state) return false;
    const EntryRef entry = record.object.entry;
    change(&record,
           std::span(pages_->pool().Bytes(entry), pages_->pool().At(entry)->object_bytes()));
    records_[slot] = record;
    return true;
  }

  bool Damage(SlotIndex slot, SlotState state) {
    return ChangeEntry(slot, state, [](SlotRecord*, std::span<std::byte> bytes) {
      bytes[bytes.size() / 2] ^= std::byte{1};
    });
  }

  void StoreAndDamage(SlotIndex slot, const Page& page) {
    ASSERT_EQ(StoreWait(*tier_, slot, page.data()), IoStatus::kOk);
    ASSERT_TRUE(Damage(slot, SlotState::kLocal));
  }

  void ExpectError(SlotIndex slot) {
    const std::uint64_t failed = Count(Counter::fail_checksum);
    ExpectReadFails(slot);
    EXPECT_EQ(Count(Counter::fail_checksum), failed + 1);
  }

  // A bundle on the server, all of it in the pool as well but for its first page.
  void AdoptNeighbours() {
    ASSERT_TRUE(tier_->SetPacking(true).ok());
    for (SlotIndex slot = 0; slot < kBundleSlots; ++slot) StorePage(slot, 1);
    WriteBack(64);
    Read(0);
    ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.clean == kBundleSlots - 1; }));
  }
};

TEST_F(TierDamagedPool, IsAnErrorWhenItIsReadFromThere) {
  StoreAndDamage(kSlot, half_random_);
  ExpectError(kSlot);
}

TEST_F(TierDamagedPool, IsNotSentToAServer) {
  StoreAndDamage(kSlot, half_random_);
  ASSERT_EQ(StoreWait(*tier_, kSlot + 1, letters_.data()), IoStatus::kOk);
  WriteBack(64);
  EXPECT_EQ(remote_.put_order(), std::vector<ObjectKey>{kSlot + 1});
  EXPECT_GT(Count(Counter::fail_checksum), 0u) << "an operator hears of it before a reader does";
  ExpectError(kSlot);
}

TEST_F(TierDamagedPool, IsNotMadeGoodByRecompression) {
  tier_->SetRecompression(Compressor{Codec::kZstd, 1});
  StoreAndDamage(kSlot, letters_);
  ASSERT_EQ(StoreWait(*tier_, kSlot + 1, letters_.data()), IoStatus::kOk);
  WriteBack(64);
  EXPECT_EQ(Count(Counter::recompressed), 1u) << "the other one is";
  ExpectError(kSlot);
}

TEST_F(TierDamagedPool, IsNotPackedWithItsNeighbours) {
  ASSERT_TRUE(tier_->SetPacking(true).ok());
  for (SlotIndex slot = kSlot; slot < kSlot + 4; ++slot) StorePage(slot, 1);
  ASSERT_TRUE(Damage(kSlot, SlotState::kLocal));      // the first that is looked at
  ASSERT_TRUE(Damage(kSlot + 2, SlotState::kLocal));  // a neighbour of one
  WriteBack(64);
  EXPECT_EQ(Count(Counter::packed), 2u);
  for (const SlotIndex damaged : {kSlot, kSlot + 2}) {
    ExpectError(damaged);
    ExpectPage(damaged + 1, 1);
  }
}

TEST_F(TierDamagedPool, IsReadFromTheServerThatHasItAsWell) {
  AdoptNeighbours();
  ASSERT_TRUE(Damage(kSlot, SlotState::kClean));
  const std::size_t asked = remote_.objects_asked_for();
  ExpectPage(kSlot, 1);
  EXPECT_EQ(remote_.objects_asked_for(), asked + 1);
  EXPECT_EQ(Count(Counter::fail_checksum), 1u);
  EXPECT_EQ(Count(Counter::clean_dropped), 1u);
  EXPECT_EQ(StateOf(kSlot), "remote");
}

TEST_F(TierDamagedPool, IsReadFromTheServerAlsoWhenItDoesNotDecompress) {
  AdoptNeighbours();
  ASSERT_TRUE(
      ChangeEntry(kSlot, SlotState::kClean, [](SlotRecord* record, std::span<std::byte> bytes) {
        std::ranges::fill(bytes, std::byte{0xff});
        record->object.checksum = PageChecksum(kSlot, static_cast<Codec>(record->codec), bytes);
      }));
  ExpectPage(kSlot, 1);
  EXPECT_EQ(Count(Counter::decompress_fail), 1u);
  EXPECT_EQ(Count(Counter::fail_checksum), 0u);
}

TEST_F(TierDamagedPool, IsAnErrorWhenTheServerFailsAsWell) {
  AdoptNeighbours();
  ASSERT_TRUE(Damage(kSlot, SlotState::kClean));
  remote_.FailGets(GetResult::kUnavailable);
  ExpectError(kSlot);
  remote_.FailGets(GetResult::kFound);
  ExpectPage(kSlot, 1);  // the server is back
}

// Each in turn while the page is on its way from the server, after its entry was dropped.
TEST_F(TierDamagedPool, IsNotReadFromTheServerAnyMoreOnceItsSlotHasChanged) {
  AdoptNeighbours();
  const auto read_while = [&](SlotIndex slot, const auto& change) {
    EXPECT_TRUE(Damage(slot, SlotState::kClean));
    const auto pages = FetchDuring({slot}, [&] { change(slot); });
    // The read began before the change: the older page is as good.
    EXPECT_EQ(pages[0], PageLikeItsNeighbours(slot, 1));
    return Read(slot);
  };
  EXPECT_EQ(read_while(3, [&](SlotIndex slot) { tier_->Invalidate(slot, 1); }), Page{});
  EXPECT_EQ(read_while(4, [&](SlotIndex slot) { ASSERT_EQ(Store(slot, 2), IoStatus::kOk); }),
            MakePage(4, 2));
  EXPECT_EQ(Count(Counter::fail_checksum), 2u);
}

// Clean pages are damaged as they come, while pages of their bundle are written, trimmed, read,
// dropped and fetched. Each write waits for damage, of which there is some as long as two are in
// the bundle.
TEST_F(TierDamagedPool, CostsNothingWhateverHappensMeanwhileToItsSlot) {
  ASSERT_TRUE(tier_->SetPacking(true).ok());
  struct Bounds {
    std::atomic<std::uint32_t> started{0};
    std::atomic<std::uint32_t> finished{0};
  };
  std::array<Bounds, kBundleSlots> bounds;
  const auto expected = [](SlotIndex slot, std::uint32_t generation) {
    return generation % 8 == 0 ? Page{} : PageLikeItsNeighbours(slot, generation);
  };
  const auto write = [&](SlotIndex slot, std::uint32_t generation) {
    bounds[slot].started = generation;
    if (generation % 8 == 0) {
      tier_->Invalidate(slot, 1);
    } else {
      ASSERT_EQ(StoreWait(*tier_, slot, expected(slot, generation).data()), IoStatus::kOk);
    }
    bounds[slot].finished = generation;
  };
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> damaged{0};
  const auto damage = [&] {
    while (!done) {
      for (SlotIndex slot = 0; slot < kBundleSlots; ++slot) {
        if (Damage(slot, SlotState::kClean)) ++damaged;
      }
    }
  };
  const auto shrink = [&] {
    while (!done) tier_->StartManualWriteback({.bytes = kBundleSlots * kPageBytes});
  };
  const auto read = [&] {
    for (SlotIndex slot = 0; !done; slot = (slot + 1) % kBundleSlots) {
      const std::uint32_t oldest = bounds[slot].finished;
      const Page page = Read(slot);
      const std::uint32_t newest = bounds[slot].started;
      bool matched = false;
      for (std::uint32_t g = oldest; g <= newest; ++g) matched |= page == expected(slot, g);
      EXPECT_TRUE(matched) << "slot " << slot << " generations " << oldest << " to " << newest;
    }
  };
  for (std::uint32_t generation = 1; generation < 12; generation += 2) {
    for (SlotIndex slot = 0; slot < kBundleSlots; ++slot) write(slot, generation);
    WriteBack(64);
    done = false;
    std::array<std::thread, 3> threads{std::thread(damage), std::thread(shrink), std::thread(read)};
    for (SlotIndex slot = 0; slot < kBundleSlots - 1; ++slot) {
      for (const std::uint64_t before = damaged; damaged == before;) Read(kBundleSlots - 1);
      write(slot, generation + 1);
    }
    done = true;
    for (std::thread& thread : threads) thread.join();
    AwaitJob();  // it would send pages of the next round one by one
    for (SlotIndex slot = 0; slot < kBundleSlots; ++slot) {
      EXPECT_EQ(Read(slot), expected(slot, bounds[slot].finished)) << slot;
    }
  }
  EXPECT_GT(Count(Counter::fail_checksum), 0u);
}

}  // namespace
}  // namespace farswap::tier
