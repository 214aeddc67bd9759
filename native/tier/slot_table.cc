#include "tier/slot_table.h"

#include <string>
#include <utility>

namespace farswap::tier {

const char* SlotStateName(SlotState state) {
  static constexpr const char* kNames[kSlotStates] = {"empty",   "same_filled", "local",
                                                      "writing", "remote",      "clean"};
  return kNames[static_cast<std::size_t>(state)];
}

Result<std::unique_ptr<SlotTable>> SlotTable::Create(std::uint64_t slots) {
  if (slots < 1 || slots > kSlotsMax) {
    return Error{"a device of " + std::to_string(slots) + " pages is outside of 1 to " +
                 std::to_string(kSlotsMax)};
  }
  // A mapping of zeros is a table of empty slots of version 0.
  auto mapping = LockedMapping::Create(slots * sizeof(SlotRecord), "slot-table");
  if (!mapping.ok()) return mapping.error();
  return std::unique_ptr<SlotTable>(new SlotTable(std::move(mapping.value()), slots));
}

SlotTable::SlotTable(std::unique_ptr<LockedMapping> mapping, std::uint64_t slots)
    : mapping_(std::move(mapping)),
      records_(reinterpret_cast<SlotRecord*>(mapping_->data())),
      slots_(slots) {}

}  // namespace farswap::tier
