// The words of the field: slot, page, version, codec, and the object a page is kept and sent as.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace farswap::tier {

inline constexpr std::size_t kPageBytes = 4096;

/// Index of a 4 KiB page on the device.
using SlotIndex = std::uint32_t;

/// Raised by every overwrite and trim of a slot; what was started for an older one is dropped.
using Version = std::uint32_t;

/// Slots of one shard: the unit of placement on memory servers.
inline constexpr SlotIndex kShardSlots = 4096;

/// How an object's bytes become a page. The numbers are those of proto/farswap/v1/types.proto.
enum class Codec : std::uint8_t { kRaw = 1, kLz4 = 2, kZstd = 3 };

/// A page as the tier keeps it, servers store it and the wire carries it. `bytes` is borrowed.
struct PageObject {
  SlotIndex slot = 0;
  Version version = 0;
  Codec codec = Codec::kRaw;
  std::uint32_t checksum = 0;  // PageChecksum(slot, codec, bytes)
  std::uint32_t stored_unix_s = 0;
  std::span<const std::byte> bytes;  // 1..kPageBytes; exactly kPageBytes if kRaw
};

/// Low 32 bits of XXH3_64 over the bytes, seeded with slot and codec, so that a page cannot pass
/// for another slot's.
std::uint32_t PageChecksum(SlotIndex slot, Codec codec, std::span<const std::byte> bytes);

}  // namespace farswap::tier
