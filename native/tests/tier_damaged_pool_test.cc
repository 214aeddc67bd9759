// What becomes of a page whose bytes changed in the pool: an error wherever it is read, and never a
// fresh checksum on its way to the servers.
#include "tier/tier_impl.h"
#include "tier_fixture.h"

namespace farswap::tier {
namespace {

class TierDamagedPool : public TierFixture {
 protected:
  static constexpr SlotIndex kSlot = 3;
  // Both still decompress when they are damaged, to another page.
  const Page letters_ = PageOfLetters(1, 16);                 // raw, until zstd comes
  const Page half_random_ = PageLikeItsNeighbours(kSlot, 1);  // LZ4

  void SetUp() override {
    TierConfig config;
    config.slots = 64;
    config.pool_bytes_max = Pool::kPoolBytesMin;
    auto pool = Pool::Create(config.pool_bytes_max);
    auto table = SlotTable::Create(config.slots);
    auto arenas = Shrinker::CreateArenas();
    ASSERT_TRUE(pool.ok() && table.ok() && arenas.ok());
    pool_ = pool.value().get();
    tier_ = std::make_unique<TierImpl>(config, &remote_, std::move(table.value()),
                                       std::move(pool.value()), std::move(arenas.value()));
  }

  void StoreAndDamage(SlotIndex slot, const Page& page) {
    ASSERT_EQ(tier_->Store(slot, page.data()), IoStatus::kOk);
    for (EntryRef ref = 0; ref < Pool::kSlabBytes / Pool::kUnitBytes; ++ref) {
      if (pool_->At(ref)->slot.load() != slot) continue;
      pool_->Bytes(ref)[pool_->At(ref)->object_bytes() / 2] ^= std::byte{1};
      return;
    }
    FAIL() << "slot " << slot << " has no entry";
  }

  void ExpectError(SlotIndex slot) {
    Page page{};
    Version version;
    EXPECT_EQ(tier_->LoadWait(slot, page.data(), &version), IoStatus::kIoError);
    EXPECT_EQ(Count(Counter::fail_checksum), 1u);
  }

  Pool* pool_ = nullptr;  // the tier's
};

TEST_F(TierDamagedPool, IsAnErrorWhenItIsReadFromThere) {
  StoreAndDamage(kSlot, half_random_);
  ExpectError(kSlot);
}

TEST_F(TierDamagedPool, IsAnErrorWhenItComesBackFromAServer) {
  StoreAndDamage(kSlot, half_random_);
  WriteBack(1);
  ExpectError(kSlot);
}

TEST_F(TierDamagedPool, IsNotMadeGoodByRecompression) {
  tier_->SetRecompression(Compressor{Codec::kZstd, 1});
  StoreAndDamage(kSlot, letters_);
  ASSERT_EQ(tier_->Store(kSlot + 1, letters_.data()), IoStatus::kOk);
  WriteBack(2);
  EXPECT_EQ(Count(Counter::recompressed), 1u) << "the other one is";
  ExpectError(kSlot);
}

TEST_F(TierDamagedPool, IsNotMadeGoodByPacking) {
  ASSERT_TRUE(tier_->SetPacking(true).ok());
  StoreAndDamage(kSlot, half_random_);
  ASSERT_EQ(tier_->Store(kSlot + 1, PageLikeItsNeighbours(kSlot + 1, 1).data()), IoStatus::kOk);
  WriteBack(2);
  EXPECT_EQ(Count(Counter::packed), 0u);
  ExpectError(kSlot);
  EXPECT_EQ(Read(kSlot + 1), PageLikeItsNeighbours(kSlot + 1, 1));
}

}  // namespace
}  // namespace farswap::tier
