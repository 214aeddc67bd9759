#include "tier/codec.h"

#include <lz4.h>
// For contexts in memory of ours, which allocate nothing.
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/memory.h"

namespace farswap::tier {
namespace {

constexpr std::size_t kAlignment = 64;

std::size_t Aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Of a context for every level. The sizes do not rise with the level.
std::size_t CompressionContextBytes() {
  std::size_t bytes_max = 0;
  for (int level = 1; level <= Compressor::kZstdLevelMax; ++level) {
    const ZSTD_compressionParameters parameters = ZSTD_getCParams(level, kPageBytes, 0);
    bytes_max = std::max(bytes_max, ZSTD_estimateCCtxSize_usingCParams(parameters));
  }
  return Aligned(bytes_max);
}

// Memory of one thread: off the stack, since our threads' stacks are small and locked.
class Workspace {
 public:
  static Result<std::unique_ptr<Workspace>> Create() {
    const std::size_t scratch_bytes = Aligned(sizeof(Scratch));
    const std::size_t compression_bytes = CompressionContextBytes();
    const std::size_t decompression_bytes = Aligned(ZSTD_estimateDCtxSize());
    auto memory = Memory::Create(scratch_bytes + compression_bytes + decompression_bytes,
                                 "codec of a thread");
    if (!memory.ok()) return memory.error();
    std::byte* const compression = memory.value()->data() + scratch_bytes;
    std::byte* const decompression = compression + compression_bytes;
    std::unique_ptr<Workspace> workspace(new Workspace);
    workspace->compression_ = ZSTD_initStaticCCtx(compression, compression_bytes);
    workspace->decompression_ = ZSTD_initStaticDCtx(decompression, decompression_bytes);
    FARSWAP_CHECK(workspace->compression_ != nullptr && workspace->decompression_ != nullptr);
    workspace->memory_ = std::move(memory.value());
    return workspace;
  }

  // Length of the page as a zstd frame in out(); 0 when it takes more than bytes_max.
  std::size_t CompressZstd(const std::byte* page, int level, std::size_t bytes_max) {
    const std::size_t length =
        ZSTD_compressCCtx(compression_, out(), bytes_max, page, kPageBytes, level);
    return ZSTD_isError(length) ? 0 : length;
  }

  // The same in LZ4's block format.
  std::size_t CompressLz4(const std::byte* page, int acceleration) {
    const int length = LZ4_compress_fast_extState(
        &scratch()->lz4, reinterpret_cast<const char*>(page), reinterpret_cast<char*>(out()),
        static_cast<int>(kPageBytes), static_cast<int>(kCompressedBytesMax), acceleration);
    return length > 0 ? static_cast<std::size_t>(length) : 0;
  }

  bool DecompressZstd(std::span<const std::byte> bytes, std::byte* page) {
    return ZSTD_decompressDCtx(decompression_, page, kPageBytes, bytes.data(), bytes.size()) ==
           kPageBytes;
  }

  std::byte* page() { return scratch()->page.data(); }
  std::byte* out() { return scratch()->out.data(); }

 private:
  struct Scratch {
    LZ4_stream_t lz4;
    std::array<std::byte, kPageBytes> page;
    std::array<std::byte, kCompressedBytesMax> out;
  };

  Workspace() = default;
  Scratch* scratch() { return reinterpret_cast<Scratch*>(memory_->data()); }

  std::unique_ptr<Memory> memory_;
  ZSTD_CCtx* compression_ = nullptr;    // in memory_
  ZSTD_DCtx* decompression_ = nullptr;  // in memory_
};

thread_local std::unique_ptr<Workspace> workspace_of_thread;

// nullptr: there is no memory now.
Workspace* ThreadWorkspace() {
  if (workspace_of_thread == nullptr && !PrepareThreadForPages().ok()) return nullptr;
  return workspace_of_thread.get();
}

}  // namespace

Outcome Validate(const Compressor& compressor) {
  const auto within = [&](const char* what, int level_max) -> Outcome {
    if (compressor.level >= 1 && compressor.level <= level_max) return std::monostate{};
    return Error{std::string(what) + " " + std::to_string(compressor.level) +
                 " is outside of 1 to " + std::to_string(level_max)};
  };
  switch (compressor.codec) {
    case Codec::kLz4:
      return within("an acceleration of LZ4 of", Compressor::kLz4AccelerationMax);
    case Codec::kZstd:
      return within("a level of zstd of", Compressor::kZstdLevelMax);
    case Codec::kRaw:
    case Codec::kBundle:
      break;
  }
  return Error{"a compressor is LZ4 or zstd"};
}

Outcome PrepareThreadForPages() {
  if (workspace_of_thread != nullptr) return std::monostate{};
  auto made = Workspace::Create();
  if (!made.ok()) return made.error();
  workspace_of_thread = std::move(made.value());
  return std::monostate{};
}

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

Compressed CompressPage(const std::byte* page, const Compressor& compressor) {
  FARSWAP_CHECK(compressor.level >= 1);
  Workspace* const workspace = ThreadWorkspace();
  if (workspace == nullptr) return {Codec::kRaw, {page, kPageBytes}};
  const std::size_t length =
      compressor.codec == Codec::kZstd
          ? workspace->CompressZstd(page, compressor.level, kCompressedBytesMax)
          : workspace->CompressLz4(page, compressor.level);
  if (length == 0) return {Codec::kRaw, {page, kPageBytes}};
  return {compressor.codec, {workspace->out(), length}};
}

std::optional<Compressed> Recompress(Codec codec, std::span<const std::byte> bytes, int level) {
  if (codec == Codec::kZstd) return std::nullopt;
  Workspace* const workspace = ThreadWorkspace();
  if (workspace == nullptr) return std::nullopt;
  const std::byte* page = bytes.data();
  if (codec != Codec::kRaw) {
    if (!DecompressPage(codec, bytes, workspace->page())) return std::nullopt;
    page = workspace->page();
  }
  const std::size_t bytes_max = std::min(bytes.size() - bytes.size() / 8, kCompressedBytesMax);
  const std::size_t length = workspace->CompressZstd(page, level, bytes_max);
  if (length == 0) return std::nullopt;
  return Compressed{Codec::kZstd, {workspace->out(), length}};
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
    case Codec::kZstd: {
      Workspace* const workspace = ThreadWorkspace();
      return workspace != nullptr && workspace->DecompressZstd(bytes, page);
    }
    case Codec::kBundle:
      break;
  }
  return false;
}

}  // namespace farswap::tier
