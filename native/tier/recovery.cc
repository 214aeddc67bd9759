// Pages: after the process died, from the memory that it left.
//
// Everything that a slot's record decides is counted, charged and marked again. Recovery may die
// itself at any instruction: what it changes in the memory means the same before and after.
#include <algorithm>
#include <functional>
#include <vector>

#include "base/step.h"
#include "tier/pages.h"

namespace farswap::tier {

Outcome Pages::Recover(std::uint32_t boot_s) {
  groups_.BeginRecovery();
  std::uint64_t in_pool = 0;
  std::uint64_t damaged = 0;
  ForEach(0, slots(), [&](SlotIndex slot) {
    const SlotRecord& record = table_.Get(slot);
    if (record.group >= Groups::kGroupsMax || record.state > SlotState::kClean) {
      ++damaged;
      return;
    }
    RecoverRecord(slot);
    if (record.stale_remote) stale_->Mark(slot);
    if (record.state == SlotState::kEmpty) return;
    groups_.At(record.group).Count(Counter::recovered);
    if (record.InPool()) {
      ++in_pool;
    } else {
      Account(record.group, SlotRecord{}, record, LruPlace::kHot);
    }
  });
  Reach(Step::kRecoveredTable);
  MarkStaleBundles();

  std::vector<std::uint64_t> by_age;  // age:32 | slot:32
  by_age.reserve(in_pool);
  const auto in_use = [&](EntryRef ref) {
    const SlotIndex slot = pool_.At(ref)->slot.load(std::memory_order_relaxed);
    if (slot >= slots()) return false;
    const SlotRecord& record = table_.Get(slot);
    if (!record.InPool() || record.object.entry != ref) return false;
    by_age.push_back(std::uint64_t{pool_.At(ref)->AgeSeconds(boot_s)} << 32 | slot);
    return true;
  };
  if (damaged > 0 || pool_.Recover(in_use) != in_pool) {
    return Error{"the kept memory is damaged: slots and pool do not fit together"};
  }
  std::ranges::sort(by_age, std::greater{});
  for (const std::uint64_t aged : by_age) {
    const SlotRecord& record = table_.Get(static_cast<SlotIndex>(aged));
    Account(record.group, SlotRecord{}, record, LruPlace::kHot);
  }
  groups_.EndRecovery();
  return std::monostate{};
}

// Which bundles on servers hold no slot's page is not kept.
void Pages::MarkStaleBundles() {
  if (bundle_version_ == 0) return;
  for (std::uint64_t first = 0; first < slots(); first += kBundleSlots) {
    const auto lock = table_.Lock(static_cast<SlotIndex>(first));
    if (!table_.AnyInBundle(static_cast<SlotIndex>(first))) {
      stale_->MarkBundle(static_cast<SlotIndex>(first));
    }
  }
}

}  // namespace farswap::tier
