// Pages that say nothing to the tier and everything to a test: their content follows from a kind
// and a number, and differs from that of any other number.
#pragma once

#include <cstdint>
#include <cstring>

#include "tier/page.h"

namespace farswap::tier {

/// How a page fares in the tier. Those that are alike shrink to a half by themselves, and to almost
/// nothing beside each other.
enum class PageKind : std::uint8_t { kZero, kSameFilled, kCompressible, kRandom, kAlike };

/// A good 64-bit mix, from splitmix64: https://prng.di.unimi.it/splitmix64.c.
inline std::uint64_t Mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

/// Writes the page of that kind and number. A compressible one takes some 1.2 KiB.
inline void FillNumbered(PageKind kind, std::uint64_t number, std::byte* page) {
  const bool alike = kind == PageKind::kAlike;
  std::uint64_t random = alike ? 0 : Mix(number);
  const std::uint64_t word = kind == PageKind::kZero || alike ? 0 : random | 1;
  for (std::size_t offset = 0; offset < kPageBytes; offset += sizeof(word)) {
    std::uint64_t value = word;
    if (kind == PageKind::kRandom || (kind == PageKind::kCompressible && offset % 32 == 0) ||
        (alike && offset < kPageBytes / 2)) {
      value = random = Mix(random);
    }
    std::memcpy(page + offset, &value, sizeof(value));
  }
  if (alike) std::memcpy(page, &number, sizeof(number));
}

/// Names one write of a test; 0: zeros, as the slot was never written, was trimmed, or its store
/// was refused.
using Stamp = std::uint32_t;

/// Every fourth stamp's pages are alike. Of the others one in eight each is zeros, same-filled and
/// random.
inline PageKind StampedKind(SlotIndex slot, Stamp stamp) {
  if (stamp == 0) return PageKind::kZero;
  if (stamp % 4 == 0) return PageKind::kAlike;
  switch (Mix(~(std::uint64_t{slot} << 32 | stamp)) % 8) {
    case 0:
      return PageKind::kSameFilled;
    case 1:
      return PageKind::kRandom;
    case 2:
      return PageKind::kZero;
    default:
      return PageKind::kCompressible;
  }
}

/// Writes the page of (slot, stamp).
inline void FillStamped(SlotIndex slot, Stamp stamp, std::byte* page) {
  FillNumbered(StampedKind(slot, stamp), std::uint64_t{slot} << 32 | stamp, page);
}

}  // namespace farswap::tier
