// Pages: after the process died, from the memory that it left.
//
// Everything that a slot's record decides is counted, charged and marked again. Recovery may die
// itself at any instruction: what it changes in the memory means the same before and after.
//
// The table and the pool are each read once, in the order of their addresses: a device of 64 GiB
// has millions of entries, and the stores wait.
#include <array>
#include <utility>
#include <vector>

#include "base/step.h"
#include "tier/pages.h"

namespace farswap::tier {
namespace {

/// An entry to be put on its group's LRU: ticks of age, group, reference.
using AgedEntry = std::uint64_t;
constexpr unsigned kGroupShift = 32;
constexpr unsigned kAgeShift = 44;
static_assert(Groups::kGroupsMax <= 1u << (kAgeShift - kGroupShift));
static_assert(Entry::kTicksMax <= 1u << (64 - kAgeShift));

/// The oldest first, those of one age in their order: two passes of a radix sort.
void SortByAge(std::vector<AgedEntry>* entries) {
  constexpr unsigned kBits = (64 - kAgeShift) / 2;
  std::vector<AgedEntry> sorted(entries->size());
  for (const unsigned shift : {kAgeShift, kAgeShift + kBits}) {
    const auto digit = [shift](AgedEntry entry) { return ~(entry >> shift) & ((1u << kBits) - 1); };
    std::array<std::size_t, 1u << kBits> at{};
    for (const AgedEntry entry : *entries) ++at[digit(entry)];
    std::size_t begin = 0;
    for (std::size_t& each : at) begin += std::exchange(each, begin);
    for (const AgedEntry entry : *entries) sorted[at[digit(entry)]++] = entry;
    entries->swap(sorted);
  }
}

}  // namespace

/// What all records say.
struct Pages::Recovered {
  /// Of a group's pages.
  struct Sum {
    std::array<std::uint64_t, kSlotStates> by_state{};
    std::uint64_t raw_pages = 0;
    Charge charge;
  };

  Pool::Recovery pool;
  std::vector<Sum> sums = std::vector<Sum>(Groups::kGroupsMax);
  std::uint64_t in_pool = 0;
};

// No other thread runs: neither slots nor groups are locked.
Outcome Pages::Recover(std::uint32_t boot_s) {
  groups_.BeginRecovery();
  Recovered all{.pool = Pool::Recovery(&pool_)};
  const Error damaged{"the kept memory is damaged: slots and pool do not fit together"};
  for (std::uint64_t first = 0; first < slots(); first += kBundleSlots) {
    if (!RecoverSlots(static_cast<SlotIndex>(first), &all)) return damaged;
  }
  Reach(Step::kRecoveredTable);

  std::vector<AgedEntry> by_age;
  by_age.reserve(all.in_pool);
  std::uint64_t payload_bytes = 0;
  const auto slot_of = [&](EntryRef ref) {
    return pool_.At(ref)->slot.load(std::memory_order_relaxed);
  };
  const auto soon = [&](EntryRef ref) {
    if (const SlotIndex slot = slot_of(ref); slot < slots()) __builtin_prefetch(&table_.Get(slot));
  };
  const auto in_use = [&](EntryRef ref) {
    const SlotIndex slot = slot_of(ref);
    if (slot >= slots()) return false;
    const SlotRecord& record = table_.Get(slot);
    if (!record.InPool() || record.object.entry != ref) return false;
    const Entry& entry = *pool_.At(ref);
    payload_bytes += entry.object_bytes();
    all.sums[record.group].charge.pool_bytes += static_cast<std::int64_t>(pool_.EntryBytesOf(ref));
    by_age.push_back(std::uint64_t{entry.AgeSeconds(boot_s) / Entry::kTickSeconds} << kAgeShift |
                     std::uint64_t{record.group} << kGroupShift | ref);
    return true;
  };
  if (!all.pool.Finish(soon, in_use)) return damaged;
  payload_bytes_ = payload_bytes;
  SortByAge(&by_age);
  for (std::size_t i = 0; i < by_age.size(); ++i) {
    constexpr std::size_t kAhead = 16;
    if (i + kAhead < by_age.size()) {
      __builtin_prefetch(pool_.At(static_cast<EntryRef>(by_age[i + kAhead])), 1);
    }
    const auto group = by_age[i] >> kGroupShift & (Groups::kGroupsMax - 1);
    groups_.At(static_cast<GroupIndex>(group)).lru.AddHot(static_cast<EntryRef>(by_age[i]));
  }
  for (std::size_t index = 0; index < all.sums.size(); ++index) {
    const Recovered::Sum& sum = all.sums[index];
    const auto group = groups_.Lock(static_cast<GroupIndex>(index));
    for (std::size_t state = 0; state < kSlotStates; ++state) {
      group->pages_by_state[state] += sum.by_state[state];
      group->Count(Counter::recovered, sum.by_state[state]);
    }
    group->raw_pages += sum.raw_pages;
    groups_.Add(group, sum.charge);
  }
  groups_.EndRecovery();
  return std::monostate{};
}

// Those of a bundle. False: a record is damaged.
bool Pages::RecoverSlots(SlotIndex first, Recovered* all) {
  for (std::uint64_t next = first, end = BundleEnd(first); next < end; ++next) {
    const auto slot = static_cast<SlotIndex>(next);
    const SlotRecord& record = table_.Get(slot);
    if (record.group >= Groups::kGroupsMax || record.state > SlotState::kClean) return false;
    const GroupIndex group = groups_.Resolve(record.group);
    if (group != record.group || record.state == SlotState::kWriting) RecoverRecord(slot);
    if (record.stale_remote) stale_->Mark(slot);
    if (record.state == SlotState::kEmpty) continue;
    Recovered::Sum& sum = all->sums[group];
    ++sum.by_state[static_cast<std::size_t>(record.state)];
    const bool away = record.state == SlotState::kRemote || record.state == SlotState::kClean;
    if (away) ++sum.charge.remote_pages;
    if (!record.InPool()) continue;
    if (static_cast<Codec>(record.codec) == Codec::kRaw) ++sum.raw_pages;
    ++all->in_pool;
    if (!all->pool.Claim(record.object.entry)) return false;
  }
  // Which bundles on servers hold no slot's page is not kept.
  if (bundle_version_ > 0 && !AnyInBundle(first)) stale_->MarkBundle(first);
  return true;
}

}  // namespace farswap::tier
