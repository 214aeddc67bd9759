// Slot, page, version, codec, and the object that a page is kept and sent as.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace farswap::tier {

inline constexpr std::size_t kPageBytes = 4096;

/// Index of a 4 KiB page on the device.
using SlotIndex = std::uint32_t;

/// Most slots of a device: 8 TiB. Higher numbers are keys of bundles.
inline constexpr std::uint64_t kSlotsMax = std::uint64_t{1} << 31;

/// Raised by every overwrite and trim of a slot, and by a writeback without an answer. Operations
/// begun for an older version are dropped.
using Version = std::uint32_t;

/// Slots of one shard: the unit of placement on memory servers.
inline constexpr SlotIndex kShardSlots = 4096;

/// Slots of a bundle, whose pages may be kept as one object: see bundle.h.
inline constexpr SlotIndex kBundleSlots = 16;

/// What servers keep an object under: a page's slot, or the key of a bundle, which is no slot.
using ObjectKey = SlotIndex;
inline constexpr ObjectKey BundleKeyOf(SlotIndex slot) { return 1u << 31 | slot / kBundleSlots; }
inline constexpr bool IsBundleKey(ObjectKey key) { return key >> 31 != 0; }
/// The slot, or the first one of the bundle: says where on the device the object belongs.
inline constexpr SlotIndex FirstSlotOf(ObjectKey key) {
  return IsBundleKey(key) ? (key & ~(1u << 31)) * kBundleSlots : key;
}

/// What servers compare: of a bundle a count of its own; of a page the slot's version, below a
/// count of version wraps.
using ObjectVersion = std::uint64_t;
inline constexpr Version SlotVersionOf(ObjectVersion version) {
  return static_cast<Version>(version);
}
inline constexpr ObjectVersion PageVersion(std::uint32_t wraps, Version version) {
  return ObjectVersion{wraps} << 32 | version;
}

/// How an object's bytes become a page. The numbers are those of proto/farswap/v1/types.proto.
enum class Codec : std::uint8_t { kRaw = 1, kLz4 = 2, kZstd = 3, kBundle = 4 };

/// A page or bundle as the tier keeps it, servers store it and the wire carries it. `bytes` is
/// borrowed.
struct Object {
  ObjectKey key = 0;
  ObjectVersion version = 0;
  Codec codec = Codec::kRaw;
  std::uint32_t checksum = 0;  // PageChecksum(key, codec, bytes)
  std::uint32_t stored_boot_s = 0;
  // 1..kPageBytes; exactly kPageBytes if kRaw; up to kBundleBytesMax if kBundle.
  std::span<const std::byte> bytes;
};

/// Low 32 bits of XXH3_64 over the bytes, seeded with key and codec, so that an object cannot
/// pass for another's.
std::uint32_t PageChecksum(ObjectKey key, Codec codec, std::span<const std::byte> bytes);

}  // namespace farswap::tier
