// Pages to objects and back: same-filled detection, LZ4, zstd, raw.
//
// Each thread compresses and decompresses with memory of its own: one locked mapping of 400 KiB,
// large enough for every compressor of the range below, so that a change of the compressor at run
// time makes no thread allocate. It is mapped by PrepareThreadForPages(), which threads of the
// store path call before they serve, and otherwise at the thread's first need.
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

/// Tells what is wrong with a compressor that CompressPage() must not be given.
Outcome Validate(const Compressor& compressor);

/// Gets the calling thread's memory, if it has none yet. Fails with a message.
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

/// Compresses a page with a valid compressor, or leaves it raw when that gains less than a quarter.
Compressed CompressPage(const std::byte* page, const Compressor& compressor = {});

/// The page of an intact object as a zstd object of that level that is at least an eighth smaller,
/// for objects going cold; nothing if there is none, or if the object is one of zstd already. A raw
/// page shrinks by a quarter or stays as it is.
std::optional<Compressed> Recompress(Codec codec, std::span<const std::byte> bytes, int level);

/// False when the bytes are not exactly one page under that codec. Never writes outside of the
/// page.
bool DecompressPage(Codec codec, std::span<const std::byte> bytes, std::byte* page);

}  // namespace farswap::tier
