#include "tier/codec.h"

#include <lz4.h>
#include <zstd.h>

#include <array>
#include <cstring>

namespace farswap::tier {
namespace {

// What one thread compresses with: off the stack, since our threads' stacks are small and locked.
struct Scratch {
  LZ4_stream_t state;
  std::array<std::byte, kCompressedBytesMax> out;
};

thread_local Scratch scratch;

}  // namespace

std::optional<std::uint64_t> SameFilled(const std::byte* page) {
  // Equal to itself shifted by a word: every word equals the one before.
  constexpr std::size_t kWord = sizeof(std::uint64_t);
  if (std::memcmp(page, page + kWord, kPageBytes - kWord) != 0) return std::nullopt;
  std::uint64_t word;
  std::memcpy(&word, page, kWord);
  return word;
}

void FillPage(std::byte* page, std::uint64_t word) {
  if (word == 0) {
    std::memset(page, 0, kPageBytes);
    return;
  }
  for (std::size_t offset = 0; offset < kPageBytes; offset += sizeof(word)) {
    std::memcpy(page + offset, &word, sizeof(word));
  }
}

Compressed CompressPage(const std::byte* page) {
  const int length = LZ4_compress_fast_extState(&scratch.state, reinterpret_cast<const char*>(page),
                                                reinterpret_cast<char*>(scratch.out.data()),
                                                static_cast<int>(kPageBytes),
                                                static_cast<int>(scratch.out.size()), 1);
  if (length <= 0) return {Codec::kRaw, {page, kPageBytes}};
  return {Codec::kLz4, {scratch.out.data(), static_cast<std::size_t>(length)}};
}

bool DecompressPage(Codec codec, std::span<const std::byte> bytes, std::byte* page) {
  switch (codec) {
    case Codec::kRaw:
      if (bytes.size() != kPageBytes) return false;
      std::memcpy(page, bytes.data(), kPageBytes);
      return true;
    case Codec::kLz4:
      return LZ4_decompress_safe(reinterpret_cast<const char*>(bytes.data()),
                                 reinterpret_cast<char*>(page), static_cast<int>(bytes.size()),
                                 static_cast<int>(kPageBytes)) == static_cast<int>(kPageBytes);
    case Codec::kZstd:
      return ZSTD_decompress(page, kPageBytes, bytes.data(), bytes.size()) == kPageBytes;
  }
  return false;
}

}  // namespace farswap::tier
