// Pages to objects and back, and what damaged objects may do.
#include <gtest/gtest.h>

#include "tier/codec.h"
#include "tier_fixture.h"

namespace farswap::tier {
namespace {

TEST(Codec, EveryKindOfPageComesBack) {
  for (const PageKind kind :
       {PageKind::kZero, PageKind::kSameFilled, PageKind::kCompressible, PageKind::kRandom}) {
    const Page page = MakePage(5, 1, kind);
    const Compressed compressed = CompressPage(page.data());
    Page back{};
    ASSERT_TRUE(DecompressPage(compressed.codec, compressed.bytes, back.data()));
    EXPECT_EQ(back, page);
  }
}

TEST(Codec, PagesThatDoNotShrinkByAQuarterStayRaw) {
  const Page page = MakePage(5, 1, PageKind::kRandom);
  const Compressed compressed = CompressPage(page.data());
  EXPECT_EQ(compressed.codec, Codec::kRaw);
  EXPECT_EQ(compressed.bytes.size(), kPageBytes);
}

TEST(Codec, SameFilledIsSeenAtAnyAlignmentAndOnlyThen) {
  std::array<std::byte, kPageBytes + 1> unaligned{};
  Page page = MakePage(9, 2, PageKind::kSameFilled);
  std::memcpy(unaligned.data() + 1, page.data(), kPageBytes);
  std::uint64_t word;
  std::memcpy(&word, page.data(), sizeof(word));
  EXPECT_EQ(SameFilled(unaligned.data() + 1), word);
  for (const std::size_t at : {std::size_t{0}, std::size_t{7}, std::size_t{2048}, kPageBytes - 1}) {
    Page changed = page;
    changed[at] ^= std::byte{1};
    EXPECT_EQ(SameFilled(changed.data()), std::nullopt) << "byte " << at;
  }
}

TEST(Codec, DamagedBytesNeverDecompressBeyondThePage) {
  std::mt19937_64 random(1);
  struct {
    Page page;
    std::array<std::byte, 64> guard;
  } out{};
  for (int i = 0; i < 20000; ++i) {
    const Page page = MakePage(static_cast<SlotIndex>(i), 1, PageKind::kCompressible);
    const Compressed compressed = CompressPage(page.data());
    std::vector<std::byte> damaged(compressed.bytes.begin(), compressed.bytes.end());
    damaged[random() % damaged.size()] ^= static_cast<std::byte>(1 + random() % 255);
    if (random() % 4 == 0) damaged.resize(1 + random() % damaged.size());
    DecompressPage(Codec::kLz4, damaged, out.page.data());
    DecompressPage(Codec::kZstd, damaged, out.page.data());
    for (const std::byte byte : out.guard) ASSERT_EQ(byte, std::byte{0});
  }
}

TEST(Codec, AnObjectOfTheWrongLengthIsRefused) {
  const Page page = MakePage(1, 1, PageKind::kRandom);
  Page out;
  EXPECT_FALSE(DecompressPage(Codec::kRaw, {page.data(), kPageBytes - 1}, out.data()));
  EXPECT_FALSE(DecompressPage(Codec::kLz4, {}, out.data()));
  EXPECT_FALSE(DecompressPage(static_cast<Codec>(0), {page.data(), 16}, out.data()));
}

TEST(Checksum, TellsSlotAndCodecApart) {
  const Page page = MakePage(1, 1, PageKind::kRandom);
  const std::uint32_t checksum = PageChecksum(1, Codec::kRaw, page);
  EXPECT_EQ(checksum, PageChecksum(1, Codec::kRaw, page));
  EXPECT_NE(checksum, PageChecksum(2, Codec::kRaw, page));
  EXPECT_NE(checksum, PageChecksum(1, Codec::kLz4, page));
}

}  // namespace
}  // namespace farswap::tier
