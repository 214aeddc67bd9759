#include "tier/slot_table.h"

#include <string>

namespace farswap::tier {

const char* SlotStateName(SlotState state) {
  static constexpr const char* kNames[kSlotStates] = {"empty",   "same_filled", "local",
                                                      "writing", "remote",      "clean"};
  return kNames[static_cast<std::size_t>(state)];
}

Outcome SlotTable::CheckSize(std::uint64_t slots) {
  if (slots >= 1 && slots <= kSlotsMax) return std::monostate{};
  return Error{"a device of " + std::to_string(slots) + " pages is outside of 1 to " +
               std::to_string(kSlotsMax)};
}

}  // namespace farswap::tier
