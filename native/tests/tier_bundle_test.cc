// Bundles: neighbours compressed together, and what damaged or forged bundle objects may do.
#include <gtest/gtest.h>
#include <zstd.h>

#include "tier/bundle.h"
#include "tier/codec.h"
#include "tier_fixture.h"

namespace farswap::tier {
namespace {

class Bundle16 : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = BundleWriter::Create();
    ASSERT_TRUE(made.ok()) << made.error().message;
    writer_ = std::move(made.value());
  }

  // The bundle object of compressible pages of these slots, generation and version 7 + slot.
  std::vector<std::byte> Make(BundleMembers members, int level = 3) {
    writer_->Begin();
    for (SlotIndex slot = 0; slot < kBundleSlots; ++slot) {
      if ((members >> slot & 1) == 0) continue;
      const Page page = PageOf(slot);
      const Compressed object = CompressPage(page.data());
      EXPECT_TRUE(writer_->Add(slot, 7 + slot, object.codec, object.bytes));
    }
    const auto object = writer_->Finish(level, kBundleBytesMax);
    EXPECT_FALSE(object.empty());
    return {object.begin(), object.end()};
  }

  static Page PageOf(SlotIndex slot) { return MakePage(slot, 7 + slot, PageKind::kCompressible); }

  static bool Accepted(std::span<const std::byte> bytes) {
    const auto bundle = ParseBundle(bytes);
    return bundle && DecompressBundle(*bundle);
  }

  std::unique_ptr<BundleWriter> writer_;
};

TEST_F(Bundle16, EveryMemberComesBackWithItsVersion) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 200; ++round) {
    const auto members = static_cast<BundleMembers>(1 + random() % 0xffff);
    const int level = 1 + round % Compressor::kZstdLevelMax;
    const std::vector<std::byte> object = Make(members, level);
    const auto bundle = ParseBundle(object);
    ASSERT_TRUE(bundle.has_value());
    ASSERT_EQ(bundle->members, members);
    const auto pages = DecompressBundle(*bundle);
    ASSERT_TRUE(pages.has_value());
    for (SlotIndex slot = 0; slot < kBundleSlots; ++slot) {
      if (!bundle->Has(slot)) continue;
      EXPECT_EQ(bundle->versions[slot], 7 + slot);
      EXPECT_EQ(std::memcmp(pages->Page(slot), PageOf(slot).data(), kPageBytes), 0) << slot;
    }
  }
}

TEST_F(Bundle16, IsSmallerThanItsPagesApart) {
  std::size_t apart = 0;
  for (SlotIndex slot = 0; slot < kBundleSlots; ++slot) {
    apart += CompressPage(PageOf(slot).data(), {Codec::kZstd, 3}).bytes.size();
  }
  EXPECT_LT(Make(0xffff).size(), apart);
}

TEST_F(Bundle16, PagesThatDoNotShrinkByAQuarterMakeNone) {
  writer_->Begin();
  for (SlotIndex slot = 0; slot < kBundleSlots; ++slot) {
    ASSERT_TRUE(writer_->Add(slot, 1, Codec::kRaw, MakePage(slot, 1, PageKind::kRandom)));
  }
  EXPECT_TRUE(writer_->Finish(1, kBundleBytesMax).empty());
}

TEST_F(Bundle16, IsMadeOnlyIfItFits) {
  const std::size_t length = Make(0x0f0f).size();
  for (const std::size_t room : {std::size_t{0}, std::size_t{36}, length / 2}) {
    EXPECT_TRUE(writer_->Finish(3, room).empty()) << room;
  }
  EXPECT_EQ(writer_->Finish(3, length + 64).size(), length);
}

TEST_F(Bundle16, DamagedObjectsOfThePoolAreNotAdded) {
  const Compressed object = CompressPage(PageOf(1).data());
  writer_->Begin();
  EXPECT_FALSE(writer_->Add(1, 1, object.codec, object.bytes.first(object.bytes.size() / 2)));
  EXPECT_EQ(writer_->count(), 0u);
}

TEST_F(Bundle16, OtherHeadersAreRefused) {
  const std::vector<std::byte> object = Make(0x0103);
  std::vector<std::byte> none = object;
  none[0] = none[1] = std::byte{0};
  EXPECT_FALSE(ParseBundle(none).has_value());
  std::vector<std::byte> reserved = object;
  reserved[2] = std::byte{1};
  EXPECT_FALSE(ParseBundle(reserved).has_value());
  const std::size_t header_bytes = 4 + 3 * sizeof(Version);
  for (std::size_t length = 0; length <= header_bytes; ++length) {
    EXPECT_FALSE(ParseBundle(std::span(object).first(length)).has_value()) << length;
  }
  std::vector<std::byte> large = object;
  large.resize(header_bytes + 3 * kPageBytes * 3 / 4 + 1);
  EXPECT_FALSE(ParseBundle(large).has_value());
}

TEST_F(Bundle16, FramesOfMoreOrFewerPagesThanMembersAreRefused) {
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

TEST_F(Bundle16, DamagedFramesNeverYieldMoreThanTheBundle) {
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
