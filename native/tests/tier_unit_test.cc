// Units: neighbours compressed together, and what damaged or forged unit objects may do.
#include <gtest/gtest.h>
#include <zstd.h>

#include "tier/codec.h"
#include "tier/unit.h"
#include "tier_fixture.h"

namespace farswap::tier {
namespace {

class Unit16 : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = UnitWriter::Create();
    ASSERT_TRUE(made.ok()) << made.error().message;
    writer_ = std::move(made.value());
  }

  // The unit object of compressible pages of these slots, generation and version 7 + slot.
  std::vector<std::byte> Make(UnitMembers members, int level = 3) {
    writer_->Begin();
    for (SlotIndex slot = 0; slot < kUnitSlots; ++slot) {
      if ((members >> slot & 1) == 0) continue;
      const Page page = PageOf(slot);
      const Compressed object = CompressPage(page.data());
      EXPECT_TRUE(writer_->Add(slot, 7 + slot, object.codec, object.bytes));
    }
    const auto object = writer_->Finish(level, kUnitBytesMax);
    EXPECT_FALSE(object.empty());
    return {object.begin(), object.end()};
  }

  static Page PageOf(SlotIndex slot) { return MakePage(slot, 7 + slot, PageKind::kCompressible); }

  static bool Accepted(std::span<const std::byte> bytes) {
    const auto unit = ParseUnit(bytes);
    return unit && DecompressUnit(*unit);
  }

  std::unique_ptr<UnitWriter> writer_;
};

TEST_F(Unit16, EveryMemberComesBackWithItsVersion) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 200; ++round) {
    const auto members = static_cast<UnitMembers>(1 + random() % 0xffff);
    const int level = 1 + round % Compressor::kZstdLevelMax;
    const std::vector<std::byte> object = Make(members, level);
    const auto unit = ParseUnit(object);
    ASSERT_TRUE(unit.has_value());
    ASSERT_EQ(unit->members, members);
    const auto pages = DecompressUnit(*unit);
    ASSERT_TRUE(pages.has_value());
    for (SlotIndex slot = 0; slot < kUnitSlots; ++slot) {
      if (!unit->Has(slot)) continue;
      EXPECT_EQ(unit->versions[slot], 7 + slot);
      EXPECT_EQ(std::memcmp(pages->Page(slot), PageOf(slot).data(), kPageBytes), 0) << slot;
    }
  }
}

TEST_F(Unit16, IsSmallerThanItsPagesApart) {
  std::size_t apart = 0;
  for (SlotIndex slot = 0; slot < kUnitSlots; ++slot) {
    apart += CompressPage(PageOf(slot).data(), {Codec::kZstd, 3}).bytes.size();
  }
  EXPECT_LT(Make(0xffff).size(), apart);
}

TEST_F(Unit16, PagesThatDoNotShrinkByAQuarterMakeNone) {
  writer_->Begin();
  for (SlotIndex slot = 0; slot < kUnitSlots; ++slot) {
    ASSERT_TRUE(writer_->Add(slot, 1, Codec::kRaw, MakePage(slot, 1, PageKind::kRandom)));
  }
  EXPECT_TRUE(writer_->Finish(1, kUnitBytesMax).empty());
}

TEST_F(Unit16, IsMadeOnlyIfItFits) {
  const std::size_t length = Make(0x0f0f).size();
  for (const std::size_t room : {std::size_t{0}, std::size_t{36}, length / 2}) {
    EXPECT_TRUE(writer_->Finish(3, room).empty()) << room;
  }
  EXPECT_EQ(writer_->Finish(3, length + 64).size(), length);
}

TEST_F(Unit16, DamagedObjectsOfThePoolAreNotAdded) {
  const Compressed object = CompressPage(PageOf(1).data());
  writer_->Begin();
  EXPECT_FALSE(writer_->Add(1, 1, object.codec, object.bytes.first(object.bytes.size() / 2)));
  EXPECT_EQ(writer_->count(), 0u);
}

TEST_F(Unit16, OtherHeadersAreRefused) {
  const std::vector<std::byte> object = Make(0x0103);
  std::vector<std::byte> none = object;
  none[0] = none[1] = std::byte{0};
  EXPECT_FALSE(ParseUnit(none).has_value());
  std::vector<std::byte> reserved = object;
  reserved[2] = std::byte{1};
  EXPECT_FALSE(ParseUnit(reserved).has_value());
  const std::size_t header_bytes = 4 + 3 * sizeof(Version);
  for (std::size_t length = 0; length <= header_bytes; ++length) {
    EXPECT_FALSE(ParseUnit(std::span(object).first(length)).has_value()) << length;
  }
  std::vector<std::byte> large = object;
  large.resize(header_bytes + 3 * kPageBytes * 3 / 4 + 1);
  EXPECT_FALSE(ParseUnit(large).has_value());
}

TEST_F(Unit16, FramesOfMoreOrFewerPagesThanMembersAreRefused) {
  const std::vector<std::byte> object = Make(0x0103);
  std::vector<std::byte> fewer = object;
  fewer[0] = std::byte{0x01};  // two members: the third version counts as frame
  EXPECT_FALSE(Accepted(fewer));
  std::vector<std::byte> more = object;
  more[0] = std::byte{0x07};
  EXPECT_FALSE(Accepted(more));
  std::vector<std::byte> cut(object.begin(), object.end() - 1);
  EXPECT_FALSE(Accepted(cut));
  std::vector<std::byte> tail = object;
  tail.push_back(std::byte{0});
  EXPECT_FALSE(Accepted(tail));
}

TEST_F(Unit16, DamagedFramesNeverYieldMoreThanTheUnit) {
  const std::vector<std::byte> object = Make(0xbeef);
  std::mt19937_64 random(4);
  for (int i = 0; i < 3000; ++i) {
    std::vector<std::byte> damaged = object;
    damaged[random() % damaged.size()] ^= static_cast<std::byte>(1 + random() % 255);
    Accepted(damaged);
  }
  EXPECT_TRUE(Accepted(object));
}

}  // namespace
}  // namespace farswap::tier
