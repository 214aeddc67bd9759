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

constexpr Compressor kCompressors[] = {
    {Codec::kLz4, 1},  {Codec::kLz4, 8},  {Codec::kLz4, Compressor::kLz4AccelerationMax},
    {Codec::kZstd, 1}, {Codec::kZstd, 3}, {Codec::kZstd, Compressor::kZstdLevelMax}};

TEST(Codec, EveryCompressorsObjectsComeBackAndStayWithinTheLimit) {
  for (SlotIndex slot = 0; slot < 200; ++slot) {
    const Page page = MakePage(slot, 1);
    for (const Compressor& compressor : kCompressors) {
      const Compressed compressed = CompressPage(page.data(), compressor);
      if (compressed.codec == Codec::kRaw) {
        EXPECT_EQ(compressed.bytes.size(), kPageBytes);
      } else {
        EXPECT_EQ(compressed.codec, compressor.codec);
        EXPECT_LE(compressed.bytes.size(), kCompressedBytesMax);
      }
      Page back{};
      ASSERT_TRUE(DecompressPage(compressed.codec, compressed.bytes, back.data()));
      EXPECT_EQ(back, page);
    }
  }
}

// A context in static memory cannot grow: every level must fit after every other.
TEST(Codec, LevelsFollowEachOtherInAnyOrderInTheSameMemory) {
  const Page page = MakePage(5, 1, PageKind::kCompressible);
  for (int one = 1; one <= Compressor::kZstdLevelMax; ++one) {
    for (int other = 1; other <= Compressor::kZstdLevelMax; ++other) {
      ASSERT_EQ(CompressPage(page.data(), {Codec::kZstd, one}).codec, Codec::kZstd) << other;
      ASSERT_EQ(CompressPage(page.data(), {Codec::kZstd, other}).codec, Codec::kZstd) << one;
    }
  }
  ASSERT_EQ(CompressPage(page.data(), {Codec::kZstd, 19}).codec, Codec::kZstd);
  for (int i = 0; i < 3000; ++i) {  // zstd gives up a context that is too large for too long
    ASSERT_EQ(CompressPage(page.data(), {Codec::kZstd, 1}).codec, Codec::kZstd) << i;
  }
  ASSERT_EQ(CompressPage(page.data(), {Codec::kZstd, 19}).codec, Codec::kZstd);
}

TEST(Codec, CompressorsOutsideOfTheirRangeAreRefusedWithTheRange) {
  for (const Compressor& compressor : kCompressors) EXPECT_TRUE(Validate(compressor).ok());
  EXPECT_EQ(Validate({Codec::kLz4, 0}).error().message,
            "an acceleration of LZ4 of 0 is outside of 1 to 65537");
  EXPECT_EQ(Validate({Codec::kZstd, 20}).error().message,
            "a level of zstd of 20 is outside of 1 to 19");
  EXPECT_FALSE(Validate({Codec::kLz4, 65538}).ok());
  EXPECT_FALSE(Validate({Codec::kZstd, -1}).ok());
  EXPECT_EQ(Validate({Codec::kRaw, 1}).error().message, "a compressor is LZ4 or zstd");
}

TEST(Codec, PagesGoingColdAreRecompressedWhereThatGainsAnEighth) {
  const Page page = PageOfLetters(1, 8);
  const Compressed hot = CompressPage(page.data());
  const std::vector<std::byte> object(hot.bytes.begin(), hot.bytes.end());
  const auto cold = Recompress(hot.codec, object, 3);
  ASSERT_TRUE(cold.has_value());
  EXPECT_EQ(cold->codec, Codec::kZstd);
  EXPECT_LE(cold->bytes.size(), object.size() - object.size() / 8);
  Page back{};
  ASSERT_TRUE(DecompressPage(cold->codec, cold->bytes, back.data()));
  EXPECT_EQ(back, page);
}

TEST(Codec, RawPagesThatOnlyZstdCanCompressDoNotStayRaw) {
  const Page page = PageOfLetters(2, 16);
  ASSERT_EQ(CompressPage(page.data()).codec, Codec::kRaw);
  const auto cold = Recompress(Codec::kRaw, page, 3);
  ASSERT_TRUE(cold.has_value());
  EXPECT_LE(cold->bytes.size(), kCompressedBytesMax);
  Page back{};
  ASSERT_TRUE(DecompressPage(cold->codec, cold->bytes, back.data()));
  EXPECT_EQ(back, page);
}

TEST(Codec, ObjectsThatGainNothingOrAreDamagedAreNotRecompressed) {
  const Page random = MakePage(5, 1, PageKind::kRandom);
  EXPECT_FALSE(Recompress(Codec::kRaw, random, 3).has_value());
  const Page letters = PageOfLetters(3, 8);
  const Compressed zstd = CompressPage(letters.data(), {Codec::kZstd, 1});
  const std::vector<std::byte> object(zstd.bytes.begin(), zstd.bytes.end());
  EXPECT_FALSE(Recompress(Codec::kZstd, object, 19).has_value());
  const Page compressible = MakePage(5, 1, PageKind::kCompressible);
  const Compressed lz4 = CompressPage(compressible.data());
  ASSERT_EQ(lz4.codec, Codec::kLz4);
  const std::vector<std::byte> damaged(lz4.bytes.begin(), lz4.bytes.begin() + 20);
  EXPECT_FALSE(Recompress(Codec::kLz4, damaged, 3).has_value());
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

TEST(Checksum, DistinguishesSlotsAndCodecs) {
  const Page page = MakePage(1, 1, PageKind::kRandom);
  const std::uint32_t checksum = PageChecksum(1, Codec::kRaw, page);
  EXPECT_EQ(checksum, PageChecksum(1, Codec::kRaw, page));
  EXPECT_NE(checksum, PageChecksum(2, Codec::kRaw, page));
  EXPECT_NE(checksum, PageChecksum(1, Codec::kLz4, page));
}

}  // namespace
}  // namespace farswap::tier
