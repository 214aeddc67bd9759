// Pages to objects and back: same-filled detection, LZ4, zstd, raw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "tier/page.h"

namespace farswap::tier {

/// Objects larger than this are not worth the decompression: the page is kept raw.
inline constexpr std::size_t kCompressedBytesMax = kPageBytes * 3 / 4;

/// The word that the whole page repeats, if it does. `page` needs no alignment.
std::optional<std::uint64_t> SameFilled(const std::byte* page);

/// Fills a page with a repeated word.
void FillPage(std::byte* page, std::uint64_t word);

struct Compressed {
  Codec codec;
  std::span<const std::byte> bytes;  // in memory of the calling thread, until its next call; or the
                                     // page itself if kRaw
};

/// Compresses a page with LZ4, or leaves it raw when that gains less than a quarter.
Compressed CompressPage(const std::byte* page);

/// False when the bytes are not exactly one page under that codec. Never writes outside of the
/// page.
bool DecompressPage(Codec codec, std::span<const std::byte> bytes, std::byte* page);

}  // namespace farswap::tier
