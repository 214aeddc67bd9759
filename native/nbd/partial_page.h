// Writes below the size of a page: read, modify, write, again if somebody else wrote in between.
#pragma once

#include <cstddef>
#include <functional>

#include "tier/page_device.h"

namespace farswap::nbd {

/// Replaces bytes [first_byte, first_byte + length) of the slot's page by `source`, or by zeros if
/// that is nullptr. Waits for a remote page, bounded by the deadline of its fetch, and for room,
/// which it announces by `before_waiting`. Atomic against every other operation on the slot.
tier::IoStatus WritePartialPage(tier::PageDevice* tier, tier::SlotIndex slot,
                                std::size_t first_byte, const std::byte* source, std::size_t length,
                                const std::function<void()>& before_waiting);

}  // namespace farswap::nbd
