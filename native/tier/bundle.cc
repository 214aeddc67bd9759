#include "tier/bundle.h"

// For contexts in memory of ours, which allocate nothing.
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "tier/codec.h"

namespace farswap::tier {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::size_t kPagesBytes = kBundleSlots * kPageBytes;
// In a writer's memory, behind the pages and the object.
constexpr std::size_t kContextAt = kPagesBytes + (kBundleBytesMax + 63) / 64 * 64;

std::size_t HeaderBytes(std::size_t count) { return 4 + count * sizeof(Version); }

std::size_t FrameBytesMax(std::size_t count) { return count * kPageBytes * 3 / 4; }

thread_local std::unique_ptr<Memory> reading_memory;  // the pages, then the context

}  // namespace

std::optional<BundleView> ParseBundle(std::span<const std::byte> bytes) {
  if (bytes.size() < HeaderBytes(0)) return std::nullopt;
  BundleView bundle;
  std::uint16_t zero;
  std::memcpy(&bundle.members, bytes.data(), sizeof(bundle.members));
  std::memcpy(&zero, bytes.data() + 2, sizeof(zero));
  const std::size_t header_bytes = HeaderBytes(bundle.count());
  if (bundle.members == 0 || zero != 0 || bytes.size() <= header_bytes) return std::nullopt;
  const std::byte* version = bytes.data() + HeaderBytes(0);
  for (std::size_t member = 0; member < kBundleSlots; ++member) {
    if (!bundle.Has(member)) continue;
    std::memcpy(&bundle.versions[member], version, sizeof(Version));
    version += sizeof(Version);
  }
  bundle.frame = bytes.subspan(header_bytes);
  if (bundle.frame.size() > FrameBytesMax(bundle.count())) return std::nullopt;
  return bundle;
}

Outcome PrepareThreadForBundles() {
  if (reading_memory == nullptr) {
    auto memory = Memory::Create(kPagesBytes + ZSTD_estimateDCtxSize(), "bundle of a thread");
    if (!memory.ok()) return memory.error();
    reading_memory = std::move(memory.value());
  }
  return PrepareThreadForPages();
}

std::optional<BundlePages> DecompressBundle(const BundleView& bundle) {
  if (reading_memory == nullptr && !PrepareThreadForBundles().ok()) return std::nullopt;
  std::byte* const pages = reading_memory->data();
  ZSTD_DCtx* const context =
      ZSTD_initStaticDCtx(pages + kPagesBytes, reading_memory->bytes() - kPagesBytes);
  const std::size_t wanted = bundle.count() * kPageBytes;
  const std::size_t length =
      ZSTD_decompressDCtx(context, pages, wanted, bundle.frame.data(), bundle.frame.size());
  if (length != wanted) return std::nullopt;
  return BundlePages(bundle.members, pages);
}

Result<std::unique_ptr<BundleWriter>> BundleWriter::Create() {
  std::size_t context_bytes = 0;
  for (int level = 1; level <= Compressor::kZstdLevelMax; ++level) {
    // A frame's size decides about its tables, and a small one's are not always the smaller ones.
    for (std::size_t count = 1; count <= kBundleSlots; ++count) {
      const auto parameters = ZSTD_getCParams(level, count * kPageBytes, 0);
      context_bytes = std::max(context_bytes, ZSTD_estimateCCtxSize_usingCParams(parameters));
    }
  }
  auto memory = Memory::Create(kContextAt + context_bytes, "bundle writer");
  if (!memory.ok()) return memory.error();
  return std::unique_ptr<BundleWriter>(new BundleWriter(std::move(memory.value())));
}

BundleWriter::BundleWriter(std::unique_ptr<Memory> memory)
    : memory_(std::move(memory)),
      context_(ZSTD_initStaticCCtx(memory_->data() + kContextAt, memory_->bytes() - kContextAt)) {
  FARSWAP_CHECK(context_ != nullptr);
}

void BundleWriter::Begin() {
  members_ = 0;
  count_ = 0;
}

bool BundleWriter::Add(std::size_t member, Version version, Codec codec,
                       std::span<const std::byte> bytes) {
  FARSWAP_CHECK(member < kBundleSlots && members_ >> member == 0);
  if (!DecompressPage(codec, bytes, memory_->data() + count_ * kPageBytes)) return false;
  members_ = static_cast<BundleMembers>(members_ | 1u << member);
  versions_[count_++] = version;
  return true;
}

std::span<const std::byte> BundleWriter::Finish(int level, std::size_t bytes_max) {
  FARSWAP_CHECK(count_ > 0);
  const std::size_t header_bytes = HeaderBytes(count_);
  bytes_max = std::min(bytes_max, header_bytes + FrameBytesMax(count_));
  if (bytes_max <= header_bytes) return {};
  std::byte* const out = memory_->data() + kPagesBytes;
  std::memset(out, 0, HeaderBytes(0));
  std::memcpy(out, &members_, sizeof(members_));
  std::memcpy(out + HeaderBytes(0), versions_.data(), count_ * sizeof(Version));
  const std::size_t length =
      ZSTD_compressCCtx(static_cast<ZSTD_CCtx*>(context_), out + header_bytes,
                        bytes_max - header_bytes, memory_->data(), count_ * kPageBytes, level);
  if (ZSTD_isError(length)) return {};
  return {out, header_bytes + length};
}

}  // namespace farswap::tier
