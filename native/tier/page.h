// The words of the field: slot, page, version, codec, and the object a page is kept and sent as.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace farswap::tier {

inline constexpr std::size_t kPageBytes = 4096;

/// Index of a 4 KiB page on the device.
using SlotIndex = std::uint32_t;

/// A device has at most so many slots, 8 TiB. The numbers above are keys of bundles.
inline constexpr std::uint64_t kSlotsMax = std::uint64_t{1} << 31;

/// Raised by every overwrite and trim of a slot, and when it is not known whether servers have the
/// present one; what was started for an older one is dropped.
using Version = std::uint32_t;

/// Slots of one shard: the unit of placement on memory servers.
inline constexpr SlotIndex kShardSlots = 4096;

/// A bundle is an aligned group of slots whose pages may be kept as one object: see tier/bundle.h.
inline constexpr SlotIndex kBundleSlots = 16;

/// What memory servers keep an object under: a page's slot, or that of a bundle, which is not one.
using ObjectKey = SlotIndex;
inline constexpr ObjectKey BundleKeyOf(SlotIndex slot) { return 1u << 31 | slot / kBundleSlots; }
inline constexpr bool IsBundleKey(ObjectKey key) { return key >> 31 != 0; }
/// The slot, or the first one of the bundle: says where on the device the object belongs.
inline constexpr SlotIndex FirstSlotOf(ObjectKey key) {
  return IsBundleKey(key) ? (key & ~(1u << 31)) * kBundleSlots : key;
}

/// What servers compare. Of a bundle it is a count of its own. Of a page it is the slot's version,
/// below a count of how often that of any slot has begun anew: it does not go down when the slot's
/// does.
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
struct PageObject {
  ObjectKey slot = 0;
  ObjectVersion version = 0;
  Codec codec = Codec::kRaw;
  std::uint32_t checksum = 0;  // PageChecksum(slot, codec, bytes)
  std::uint32_t stored_boot_s = 0;
  // 1..kPageBytes; exactly kPageBytes if kRaw; up to kBundleBytesMax if kBundle.
  std::span<const std::byte> bytes;
};

/// Low 32 bits of XXH3_64 over the bytes, seeded with key and codec, so that an object cannot
/// pass for another's.
std::uint32_t PageChecksum(ObjectKey key, Codec codec, std::span<const std::byte> bytes);

}  // namespace farswap::tier
