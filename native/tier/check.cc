// Pages and Pool: whether all that follows from the records is what the records say.
#include <array>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tier/pages.h"

namespace farswap::tier {
namespace {

Error Wrong(const std::string& what, std::uint64_t is, std::uint64_t follows) {
  return Error{what + ": " + std::to_string(is) + ", by the records " + std::to_string(follows)};
}

/// What the records of a group's pages add up to.
struct Sum {
  std::array<std::uint64_t, kSlotStates> by_state{};
  std::uint64_t raw_pages = 0;
  std::uint64_t on_lru = 0;
  Charge own;
  Charge tree;
};

void Add(const Charge& charge, Charge* sum) { *sum = *sum - (Charge{} - charge); }

/// The first value of a group that differs.
class Comparison {
 public:
  explicit Comparison(std::string of) : of_(std::move(of)) {}

  template <typename Value>
  void Expect(const char* what, Value is, Value follows) {
    if (is == follows || !outcome.ok()) return;
    outcome =
        Wrong(of_ + what, static_cast<std::uint64_t>(is), static_cast<std::uint64_t>(follows));
  }
  void Expect(const Group& group, const Sum& sum) {
    for (std::size_t state = 0; state < kSlotStates; ++state) {
      Expect(SlotStateName(static_cast<SlotState>(state)), group.pages_by_state[state].load(),
             sum.by_state[state]);
    }
    Expect("raw pages", group.raw_pages.load(), sum.raw_pages);
    Expect("pool bytes", group.own.pool_bytes, sum.own.pool_bytes);
    Expect("bytes being written", group.own.writing_bytes, sum.own.writing_bytes);
    Expect("remote pages", group.own.remote_pages, sum.own.remote_pages);
    Expect("entries on the LRU", group.lru.size(), sum.on_lru);
  }
  void ExpectBelow(const Group& group, const Charge& tree) {
    Expect("pool bytes below", group.tree_pool_bytes.load(), tree.pool_bytes);
    Expect("bytes being written below", group.tree_writing_bytes.load(), tree.writing_bytes);
    Expect("remote pages below", group.tree_remote_pages.load(), tree.remote_pages);
  }

  Outcome outcome = std::monostate{};

 private:
  const std::string of_;
};

}  // namespace

Result<std::uint64_t> Pool::Check(const std::function<bool(EntryRef)>& in_use) const {
  std::uint64_t all_used = 0;
  std::uint64_t bytes = 0;
  std::uint64_t slabs = 0;
  std::array<std::uint64_t, kClassesMax> free_entries{};
  for (std::uint32_t index = 0; index < slab_count_; ++index) {
    const Slab& slab = slabs_[index];
    if (slab.used == 0) continue;
    ++slabs;
    const std::uint16_t capacity = CapacityOf(slab);
    const std::string name = "slab " + std::to_string(index);
    std::uint16_t used = 0;
    for (std::uint16_t position = 0; position < slab.untouched; ++position) {
      if (in_use(RefOf(index, position, slab.size_class))) ++used;
    }
    if (used != slab.used) return Wrong(name + ", entries in use", slab.used, used);
    std::uint16_t freed = 0;
    for (std::uint16_t position = slab.free_head; position != kEndOfList && freed <= capacity;) {
      const EntryRef ref = RefOf(index, position, slab.size_class);
      if (position >= slab.untouched || in_use(ref))
        return Error{name + " has no list of free entries"};
      ++freed;
      std::memcpy(&position, At(ref), sizeof(position));
    }
    if (freed != slab.untouched - used)
      return Wrong(name + ", freed entries", freed, slab.untouched - used);
    if (slab.listed != (used < capacity)) return Error{name + " is not listed as it should be"};
    free_entries[slab.size_class] += capacity - used;
    bytes += std::uint64_t{used} * EntryBytesOf(RefOf(index, 0, slab.size_class));
    all_used += used;
  }
  for (std::size_t each = 0; each < kClassesMax; ++each) {
    if (free_entries[each] != classes_[each].free_entries) {
      return Wrong("free entries of a class", classes_[each].free_entries, free_entries[each]);
    }
  }
  if (bytes != entry_bytes()) return Wrong("bytes of entries", entry_bytes(), bytes);
  if (slabs != used_slabs()) return Wrong("slabs in use", used_slabs(), slabs);
  return all_used;
}

Outcome Pages::Check() {
  std::uint64_t in_pool = 0;
  for (std::uint64_t slot = 0; slot < slots(); ++slot) {
    if (table_.Get(static_cast<SlotIndex>(slot)).InPool()) ++in_pool;
  }
  const auto names = [this](EntryRef ref) {
    const SlotIndex slot = pool_.At(ref)->slot.load();
    const SlotRecord* const record = slot < slots() ? &table_.Get(slot) : nullptr;
    return record && record->InPool() && record->object.entry == ref ? record : nullptr;
  };
  auto used = pool_.Check([&](EntryRef ref) { return names(ref) != nullptr; });
  if (!used.ok()) return used.error();
  if (used.value() != in_pool) return Wrong("entries in use", used.value(), in_pool);

  std::vector<Sum> sums(Groups::kGroupsMax);
  std::uint64_t payload_bytes = 0;
  for (std::uint64_t slot = 0; slot < slots(); ++slot) {
    const SlotRecord& record = table_.Get(static_cast<SlotIndex>(slot));
    if (record.state == SlotState::kEmpty) continue;
    const GroupIndex index = groups_.Resolve(record.group);
    Sum& sum = sums[index];
    const Charge charge = ChargeOf(record);
    ++sum.by_state[static_cast<std::size_t>(record.state)];
    Add(charge, &sum.own);
    for (GroupIndex above = index; above != kRootGroup; above = groups_.At(above).parent) {
      Add(charge, &sums[above].tree);
    }
    if (record.OnLru()) ++sum.on_lru;
    if (!record.InPool()) continue;
    payload_bytes += pool_.At(record.object.entry)->object_bytes();
    if (static_cast<Codec>(record.codec) == Codec::kRaw) ++sum.raw_pages;
  }
  const std::uint64_t counted_bytes = payload_bytes_;
  if (counted_bytes != payload_bytes) return Wrong("object bytes", counted_bytes, payload_bytes);
  for (std::size_t index = 0; index < sums.size(); ++index) {
    Group& group = groups_.At(static_cast<GroupIndex>(index));
    const std::lock_guard lock(group.mutex);
    Comparison compare("group " + std::to_string(index) + ", ");
    compare.Expect(group, sums[index]);
    // Those of a removed group count until its records are rewritten.
    if (group.reparented_to.load() == index) compare.ExpectBelow(group, sums[index].tree);
    std::uint64_t its = 0;
    const bool linked = group.lru.ForEach([&](EntryRef ref) {
      const SlotRecord* const record = names(ref);
      if (record && record->OnLru() && groups_.Resolve(record->group) == index) ++its;
    });
    compare.Expect("pages on the LRU", its, sums[index].on_lru);
    compare.Expect("links of the LRU", linked, true);
    if (!compare.outcome.ok()) return compare.outcome;
  }
  return std::monostate{};
}

}  // namespace farswap::tier
