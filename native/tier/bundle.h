// Bundles: the pages of neighbouring slots compressed together for memory servers.
//
// A bundle covers 16 aligned slots, 64 KiB of the device. It holds pages of some of them, its
// members, as one object with a key of its own. All numbers are little-endian:
//
//   u16        members, one bit a slot of the bundle, not 0
//   u16        0
//   u32 * n    the members' versions, by slot
//   bytes      one zstd frame of the members' pages, by slot: at most 3/4 of n pages
//
// Bundles from servers are not trusted: ParseBundle() accepts exactly this format, and
// DecompressBundle() only a frame of exactly n pages.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/memory.h"
#include "base/result.h"
#include "tier/page.h"

namespace farswap::tier {

inline constexpr std::size_t kBundleHeaderBytesMax = 4 + kBundleSlots * sizeof(Version);
/// Of a bundle object: with 64 of them a message is still under 4 MiB.
inline constexpr std::size_t kBundleBytesMax =
    kBundleHeaderBytesMax + kBundleSlots * kPageBytes * 3 / 4;

/// Which slots of a bundle: bit i is its i-th.
using BundleMembers = std::uint16_t;

/// A parsed bundle.
struct BundleView {
  BundleMembers members = 0;
  std::array<Version, kBundleSlots> versions{};  // of the members, by their place in the bundle
  std::span<const std::byte> frame;

  bool Has(std::size_t member) const { return (members >> member & 1) != 0; }
  std::size_t count() const { return static_cast<std::size_t>(std::popcount(members)); }
};

/// Nothing if the bytes are no bundle. Borrows them, and does not decompress the frame.
std::optional<BundleView> ParseBundle(std::span<const std::byte> bytes);

/// The pages of a bundle in memory of the calling thread, until its next call.
class BundlePages {
 public:
  BundlePages(BundleMembers members, const std::byte* pages) : members_(members), pages_(pages) {}
  const std::byte* Page(std::size_t member) const {
    const auto before = static_cast<unsigned>(members_) & ((1u << member) - 1);
    return pages_ + static_cast<std::size_t>(std::popcount(before)) * kPageBytes;
  }

 private:
  BundleMembers members_;
  const std::byte* pages_;
};

/// Maps the calling thread's memory for DecompressBundle(), 160 KiB, and for pages, once. Fails
/// with a message.
Outcome PrepareThreadForBundles();

/// Nothing if the frame is not exactly the members' pages, or if the thread's memory cannot be
/// mapped.
std::optional<BundlePages> DecompressBundle(const BundleView& bundle);

/// Makes bundles: Begin(), Add() by ascending member, Finish(). For one thread.
class BundleWriter {
 public:
  /// Maps 2 MiB: enough for every level of zstd.
  static Result<std::unique_ptr<BundleWriter>> Create();

  void Begin();
  /// Adds the page of an object. False, and nothing was added, when the object is damaged.
  bool Add(std::size_t member, Version version, Codec codec, std::span<const std::byte> bytes);
  std::size_t count() const { return count_; }
  /// The bundle, until Begin(); nothing if it takes more than bytes_max or saves less than a
  /// quarter.
  std::span<const std::byte> Finish(int level, std::size_t bytes_max);

 private:
  explicit BundleWriter(std::unique_ptr<Memory> memory);

  std::unique_ptr<Memory> memory_;  // the pages, the object, the context
  void* context_;                   // ZSTD_CCtx
  BundleMembers members_ = 0;
  std::size_t count_ = 0;
  std::array<Version, kBundleSlots> versions_{};  // of the members added so far
};

}  // namespace farswap::tier
