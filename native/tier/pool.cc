#include "tier/pool.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/step.h"

namespace farswap::tier {
namespace {

// Smallest distance between two classes. Finer classes lose more in half-empty slabs than they save
// in rounding.
constexpr std::size_t kClassStepBytes = 32;

// A class also takes objects down to 4/5 of its size. With smaller ones a full pool would hold
// fewer and fewer pages.
constexpr std::size_t kHelpDivisor = 4;

struct ClassTable {
  std::array<std::uint16_t, 96> bytes{};     // of one entry, header included
  std::array<std::uint16_t, 96> capacity{};  // entries in a slab
  std::size_t count = 0;
  // Class of an entry by its size in units, rounded up.
  std::array<std::uint8_t, (sizeof(Entry) + kPageBytes) / Pool::kAlignBytes + 1> by_units{};
};

// Each class is the largest size of which that many fit into a slab, so that no tail is wasted.
constexpr ClassTable MakeClassTable() {
  ClassTable table;
  constexpr std::size_t kLargest = sizeof(Entry) + kPageBytes;
  std::size_t size = kClassStepBytes;
  while (true) {
    const std::size_t fit = Pool::kSlabBytes / size;
    const std::size_t bytes = Pool::kSlabBytes / fit / Pool::kAlignBytes * Pool::kAlignBytes;
    table.bytes[table.count] = static_cast<std::uint16_t>(bytes);
    table.capacity[table.count] = static_cast<std::uint16_t>(fit);
    ++table.count;
    if (bytes >= kLargest) break;
    size = bytes + kClassStepBytes < kLargest ? bytes + kClassStepBytes : kLargest;
  }
  std::size_t size_class = 0;
  for (std::size_t units = 0; units < table.by_units.size(); ++units) {
    while (table.bytes[size_class] < units * Pool::kAlignBytes) ++size_class;
    table.by_units[units] = static_cast<std::uint8_t>(size_class);
  }
  return table;
}

constexpr ClassTable kClasses = MakeClassTable();
static_assert(kClasses.bytes[kClasses.count - 1] == sizeof(Entry) + kPageBytes);
static_assert(kClasses.capacity[kClasses.count - 1] == 8);

std::size_t ClassOf(std::size_t object_bytes) {
  const std::size_t bytes = sizeof(Entry) + object_bytes;
  return kClasses.by_units[(bytes + Pool::kAlignBytes - 1) / Pool::kAlignBytes];
}

}  // namespace

Outcome Pool::CheckSize(std::uint64_t bytes_max) {
  static_assert(kClasses.count <= kClassesMax);
  const std::uint64_t slabs = bytes_max / (kSlabBytes + sizeof(Slab));
  if (bytes_max >= kPoolBytesMin && slabs < kNoEntry / kSlabUnits) return std::monostate{};
  return Error{"a pool of " + std::to_string(bytes_max) + " bytes is outside of " +
               std::to_string(kPoolBytesMin) + " to " +
               std::to_string(std::uint64_t{kNoEntry / kSlabUnits} * kSlabBytes) + " bytes"};
}

Pool::Pool(std::span<std::byte> memory)
    : memory_(memory.data()),
      slab_count_(static_cast<std::uint32_t>(memory.size() / (kSlabBytes + sizeof(Slab)))),
      slabs_(reinterpret_cast<Slab*>(memory_ + std::size_t{slab_count_} * kSlabBytes)),
      slab_limit_(slab_count_) {
  for (std::uint32_t index = slab_count_; index-- > 0;) {
    new (&slabs_[index]) Slab{.next = free_list_, .size_class = slabs_[index].size_class};
    free_list_ = index;
  }
  free_slab_count_ = slab_count_;
}

Pool::Recovery::Recovery(Pool* pool) : pool_(pool), claimed_(pool->slab_count_) {
  pool->free_list_ = kNoSlab;
  pool->free_slab_count_ = 0;
}

// None: a class that was never set.
std::uint16_t Pool::CapacityOf(const Slab& slab) {
  return slab.size_class < kClasses.count ? kClasses.capacity[slab.size_class] : 0;
}

// Also one that was never handed out.
void Pool::PushFree(Slab* slab, std::uint16_t position, EntryRef ref) {
  At(ref)->slot.store(kNoSlot, std::memory_order_relaxed);
  std::memcpy(static_cast<void*>(At(ref)), &slab->free_head, sizeof(slab->free_head));
  slab->free_head = position;
}

void Pool::TakeOver(std::uint32_t index) {
  Slab& slab = slabs_[index];
  if (slab.used == 0) return ReturnSlab(index);
  const std::size_t size_class = slab.size_class;
  slab.untouched = kClasses.capacity[size_class];
  SizeClass& owner = classes_[size_class];
  owner.free_entries += slab.untouched - slab.used;
  if (slab.used < slab.untouched) Link(owner, index);
  entry_bytes_.fetch_add(std::uint64_t{slab.used} * kClasses.bytes[size_class]);
}

std::uint64_t Pool::LayoutHash() {
  std::uint64_t hash = sizeof(Slab);
  for (std::size_t i = 0; i < kClasses.count; ++i)
    hash = hash * 0x9e3779b97f4a7c15 + kClasses.bytes[i];
  return hash;
}

std::size_t Pool::EntryBytes(std::size_t object_bytes) {
  return kClasses.bytes[ClassOf(object_bytes)];
}

// A slab with a live entry keeps its class, so this needs no lock.
std::size_t Pool::EntryBytesOf(EntryRef ref) const {
  return kClasses.bytes[slabs_[ref / kSlabUnits].size_class];
}

EntryRef Pool::Allocate(std::size_t object_bytes) {
  FARSWAP_CHECK(object_bytes >= 1 && object_bytes <= kObjectBytesMax);
  const std::size_t own = ClassOf(object_bytes);
  EntryRef ref = AllocateFrom(own, true);
  const std::size_t wasteful = kClasses.bytes[own] + kClasses.bytes[own] / kHelpDivisor;
  for (std::size_t other = own + 1; ref == kNoEntry && other < kClasses.count; ++other) {
    if (kClasses.bytes[other] > wasteful) break;
    ref = AllocateFrom(other, false);
  }
  return ref;
}

EntryRef Pool::AllocateFrom(std::size_t size_class, bool may_take_slab) {
  SizeClass& owner = classes_[size_class];
  std::lock_guard lock(owner.mutex);
  if (owner.with_room == kNoSlab && !(may_take_slab && TakeSlab(size_class))) return kNoEntry;
  const std::uint32_t index = owner.with_room;
  Slab& slab = slabs_[index];
  std::uint16_t position = slab.free_head;
  if (position == kEndOfList) {
    position = slab.untouched++;
  } else {
    std::memcpy(&slab.free_head, At(RefOf(index, position, size_class)), sizeof(slab.free_head));
  }
  ++slab.used;
  --owner.free_entries;
  if (slab.used == kClasses.capacity[size_class]) Unlink(owner, index);
  entry_bytes_.fetch_add(kClasses.bytes[size_class], std::memory_order_relaxed);
  const EntryRef ref = RefOf(index, position, size_class);
  new (At(ref)) Entry{kNoEntry, kNoEntry, kNoSlot};
  return ref;
}

void Pool::Free(EntryRef ref) {
  const std::uint32_t index = ref / kSlabUnits;
  Slab& slab = slabs_[index];
  // A slab with a live entry keeps its class, so this read needs no lock.
  const std::size_t size_class = slab.size_class;
  SizeClass& owner = classes_[size_class];
  std::lock_guard lock(owner.mutex);
  const std::size_t offset = std::size_t{ref % kSlabUnits} * kAlignBytes;
  const auto position = static_cast<std::uint16_t>(offset / kClasses.bytes[size_class]);
  At(ref)->slot.store(kNoSlot, std::memory_order_relaxed);
  std::memcpy(static_cast<void*>(At(ref)), &slab.free_head, sizeof(slab.free_head));
  slab.free_head = position;
  --slab.used;
  ++owner.free_entries;
  entry_bytes_.fetch_sub(kClasses.bytes[size_class], std::memory_order_relaxed);
  if (slab.used == 0 && !slab.draining) {
    if (slab.listed) Unlink(owner, index);
    owner.free_entries -= kClasses.capacity[size_class];
    ReturnSlab(index);
  } else if (!slab.listed && !slab.draining) {
    Link(owner, index);
  }
}

void Pool::SetSlabLimit(std::uint32_t slabs) {
  slab_limit_.store(std::min(slabs, slab_count_), std::memory_order_relaxed);
}

// Called with the class's mutex held.
bool Pool::TakeSlab(std::size_t size_class) {
  std::uint32_t index;
  {
    std::lock_guard lock(free_mutex_);
    if (free_slabs() == 0) return false;
    index = free_list_;
    free_list_ = slabs_[index].next;
    free_slab_count_.fetch_sub(1, std::memory_order_relaxed);
  }
  slabs_[index] = Slab{};
  Reach(Step::kSlabTaken);
  slabs_[index].size_class = static_cast<std::uint16_t>(size_class);
  classes_[size_class].free_entries += kClasses.capacity[size_class];
  Link(classes_[size_class], index);
  return true;
}

// Called with the mutex of the slab's class held.
void Pool::ReturnSlab(std::uint32_t index) {
  std::lock_guard lock(free_mutex_);
  slabs_[index].next = free_list_;
  free_list_ = index;
  free_slab_count_.fetch_add(1, std::memory_order_relaxed);
}

void Pool::Link(SizeClass& size_class, std::uint32_t index) {
  Slab& slab = slabs_[index];
  slab.previous = kNoSlab;
  slab.next = size_class.with_room;
  if (slab.next != kNoSlab) slabs_[slab.next].previous = index;
  size_class.with_room = index;
  slab.listed = true;
}

void Pool::Unlink(SizeClass& size_class, std::uint32_t index) {
  Slab& slab = slabs_[index];
  if (slab.previous == kNoSlab) {
    size_class.with_room = slab.next;
  } else {
    slabs_[slab.previous].next = slab.next;
  }
  if (slab.next != kNoSlab) slabs_[slab.next].previous = slab.previous;
  slab.listed = false;
}

EntryRef Pool::RefOf(std::uint32_t slab, std::size_t index, std::size_t size_class) const {
  return static_cast<EntryRef>(std::size_t{slab} * kSlabUnits +
                               index * kClasses.bytes[size_class] / kAlignBytes);
}

bool Pool::BeginDrain(Drain* drain) {
  drain->entries.clear();
  drain->entries.reserve(kSlabBytes / kClassStepBytes);
  // The class that would give back most: more than a slab's worth of room in its slabs.
  std::size_t best = kClasses.count;
  std::uint64_t best_bytes = 0;
  for (std::size_t candidate = 0; candidate < kClasses.count; ++candidate) {
    std::lock_guard lock(classes_[candidate].mutex);
    const std::uint64_t free_entries = classes_[candidate].free_entries;
    if (free_entries < kClasses.capacity[candidate]) continue;
    if (free_entries * kClasses.bytes[candidate] > best_bytes) {
      best = candidate;
      best_bytes = free_entries * kClasses.bytes[candidate];
    }
  }
  if (best == kClasses.count) return false;

  SizeClass& owner = classes_[best];
  std::lock_guard lock(owner.mutex);
  const std::size_t capacity = kClasses.capacity[best];
  std::uint32_t sparsest = kNoSlab;
  for (std::uint32_t index = owner.with_room; index != kNoSlab; index = slabs_[index].next) {
    if (sparsest == kNoSlab || slabs_[index].used < slabs_[sparsest].used) sparsest = index;
  }
  if (sparsest == kNoSlab) return false;
  Slab& slab = slabs_[sparsest];
  const std::size_t room_elsewhere = owner.free_entries - (capacity - slab.used);
  if (room_elsewhere < slab.used) return false;
  Unlink(owner, sparsest);
  slab.draining = true;
  drain->slab = sparsest;
  for (std::size_t position = 0; position < slab.untouched; ++position) {
    const EntryRef ref = RefOf(sparsest, position, best);
    if (At(ref)->slot.load(std::memory_order_relaxed) != kNoSlot) drain->entries.push_back(ref);
  }
  return true;
}

void Pool::EndDrain(const Drain& drain) {
  Slab& slab = slabs_[drain.slab];
  SizeClass& owner = classes_[slab.size_class];
  std::lock_guard lock(owner.mutex);
  slab.draining = false;
  if (slab.used == 0) {
    owner.free_entries -= kClasses.capacity[slab.size_class];
    ReturnSlab(drain.slab);
  } else if (slab.used < kClasses.capacity[slab.size_class]) {
    Link(owner, drain.slab);
  }
}

}  // namespace farswap::tier
