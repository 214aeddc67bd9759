#include "tier/page.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace farswap::tier {

std::uint32_t PageChecksum(ObjectKey key, Codec codec, std::span<const std::byte> bytes) {
  const std::uint64_t seed = key | std::uint64_t{static_cast<std::uint8_t>(codec)} << 32;
  return static_cast<std::uint32_t>(XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed));
}

}  // namespace farswap::tier
