// Pages to objects and back: same-filled detection, LZ4, zstd, raw.
//
// Each thread has memory of its own for this: one locked mapping of 400 KiB, enough for every
// compressor, so that a change of the compressor allocates nothing. PrepareThreadForPages() maps
// it; threads of the store path call that before they serve, other threads map it at their first
// need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"
#include "tier/page.h"

namespace farswap::tier {

/// Objects larger than this are not worth the decompression: the page is kept raw.
inline constexpr std::size_t kCompressedBytesMax = kPageBytes * 3 / 4;

/// What pages are compressed with.
struct Compressor {
  static constexpr int kLz4AccelerationMax = 65537;  // LZ4_ACCELERATION_MAX of lz4.c
  static constexpr int kZstdLevelMax = 19;           // higher ones only differ above a page

  Codec codec = Codec::kLz4;
  int level = 1;  // kLz4: acceleration, 1..65537, higher is faster; kZstd: level, 1..19

  bool operator==(const Compressor&) const = default;
};

/// Fails with a message if the compressor is out of range.
Outcome Validate(const Compressor& compressor);

/// Maps the calling thread's memory, once. Fails with a message.
Outcome PrepareThreadForPages();

/// The word that the whole page repeats, if it does. `page` needs no alignment.
std::optional<std::uint64_t> SameFilled(const std::byte* page);

/// Fills a page with a repeated word.
void FillPage(std::byte* page, std::uint64_t word);

struct Compressed {
  Codec codec;
  std::span<const std::byte> bytes;  // in memory of the calling thread, until its next call; or the
                                     // page itself if kRaw
};

/// Compresses a page with a valid compressor; leaves it raw if that saves less than a quarter.
Compressed CompressPage(const std::byte* page, const Compressor& compressor = {});

/// An intact object, compressed with zstd at that level. Nothing if it is zstd already, or would
/// not be an eighth smaller (a raw page: a quarter).
std::optional<Compressed> Recompress(Codec codec, std::span<const std::byte> bytes, int level);

/// False: the bytes are not exactly one page of that codec. Never writes outside of the page.
bool DecompressPage(Codec codec, std::span<const std::byte> bytes, std::byte* page);

}  // namespace farswap::tier
