#include "tier/tier.h"

#include <cassert>
#include <cstring>
#include <ctime>
#include <string>
#include <utility>

#include "tier/codec.h"
#include "tier/tier_impl.h"

namespace farswap::tier {
namespace {

Outcome ValidateThreshold(std::uint32_t percent) {
  if (percent >= 1 && percent <= 100) return Unit{};
  return Error{"an accept threshold of " + std::to_string(percent) +
               " percent is outside of 1 to 100"};
}

}  // namespace

std::uint32_t BootSeconds() {
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<std::uint32_t>(now.tv_sec);
}

Result<std::unique_ptr<Tier>> Tier::Create(const TierConfig& config, RemoteStore* remote) {
  const Outcome valid = ValidateThreshold(config.accept_threshold_percent);
  if (!valid.ok()) return valid.error();
  auto table = SlotTable::Create(config.slots);
  if (!table.ok()) return table.error();
  auto pool = Pool::Create(config.pool_bytes_max);
  if (!pool.ok()) return pool.error();
  auto arenas = Shrinker::CreateArenas();
  if (!arenas.ok()) return arenas.error();
  return std::unique_ptr<Tier>(new TierImpl(config, remote, std::move(table.value()),
                                            std::move(pool.value()), std::move(arenas.value())));
}

TierImpl::TierImpl(const TierConfig& config, RemoteStore* remote, std::unique_ptr<SlotTable> table,
                   std::unique_ptr<Pool> pool, std::unique_ptr<LockedMapping> arenas)
    : config_(config),
      remote_(remote),
      table_(std::move(table)),
      pool_(std::move(pool)),
      groups_(pool_.get()),
      stale_(table_->slots()),
      stores_(this),
      shrinker_(this, std::move(arenas)) {}

TierImpl::~TierImpl() { StopWriteback(); }

void TierImpl::StopWriteback() {
  WaitForPrefetches();
  stores_.Stop();
  shrinker_.Stop();
}

void TierImpl::CountState(const SlotRecord& record, int by) {
  const auto delta = static_cast<std::uint64_t>(static_cast<std::int64_t>(by));
  Group& group = groups_.Of(record);
  group.pages_by_state[static_cast<std::size_t>(record.state)].fetch_add(delta,
                                                                         std::memory_order_relaxed);
  if (!record.InPool()) return;
  payload_bytes_.fetch_add(delta * pool_->At(record.object.entry)->object_bytes(),
                           std::memory_order_relaxed);
  if (static_cast<Codec>(record.codec) == Codec::kRaw) {
    group.raw_pages.fetch_add(delta, std::memory_order_relaxed);
  }
}

void TierImpl::DropEntry(const SlotRecord& record) {
  if (!record.InPool()) return;
  const EntryRef entry = record.object.entry;
  const auto bytes = static_cast<std::int64_t>(pool_->EntryBytesOf(entry));
  {
    const auto group = groups_.Lock(record.group);
    if (record.OnLru()) {
      group->lru.Remove(entry);
      groups_.Add(group, {-bytes, 0, record.state == SlotState::kClean ? -1 : 0});
    } else {
      groups_.Add(group, {-bytes, -bytes, -1});
    }
  }
  pool_->Free(entry);
  stores_.RoomMade(groups_.Resolve(record.group));
}

std::size_t TierImpl::DropClean(SlotIndex slot, const tier::Groups::Locked& group) {
  SlotRecord record = table_->Get(slot);
  const EntryRef entry = record.object.entry;
  const std::size_t bytes = pool_->EntryBytesOf(entry);
  group->lru.Remove(entry);
  groups_.Add(group, {-static_cast<std::int64_t>(bytes), 0, 0});
  CountState(record, -1);
  record.state = SlotState::kRemote;
  record.referenced = 0;
  record.away = {0, 0};
  CountState(record, +1);
  table_->Set(slot, record);
  pool_->Free(entry);
  group->Count(Counter::clean_dropped);
  return bytes;
}

void TierImpl::FreeEntry(EntryRef entry) {
  pool_->Free(entry);
  stores_.RoomMade(kRootGroup);
}

void TierImpl::Replace(SlotIndex slot, SlotRecord next) {
  const SlotRecord old = table_->Get(slot);
  const bool was_remote = old.state == SlotState::kRemote;
  const bool page_stale = was_remote && !old.in_unit;
  next.stale_remote = old.stale_remote || page_stale ? 1 : 0;
  CountState(old, -1);
  CountState(next, +1);
  table_->Set(slot, next);
  DropEntry(old);
  if (was_remote) groups_.Add(groups_.Lock(old.group), {0, 0, -1});
  // What is being written comes back as raced, and is discarded then.
  if (next.stale_remote) stale_.Mark(slot);
  if (old.in_unit && !table_->AnyInUnit(slot)) stale_.MarkBundle(slot);
}

GroupIndex TierImpl::GroupHint(SlotIndex slot) {
  const auto lock = table_->Lock(slot);
  return GroupOf(slot);
}

GroupIndex TierImpl::GroupOf(SlotIndex slot) {
  SlotRecord record;
  Attribute(slot, table_->Get(slot), &record);
  return record.group;
}

// A store whose word has not changed since the one before was not seen by the kernel's hook: the
// programs are gone, and who wrote is not known.
bool TierImpl::Attribute(SlotIndex slot, const SlotRecord& old, SlotRecord* next) {
  next->sequence = old.sequence;
  CgroupId id = kUnknownCgroup;
  if (const std::optional<SlotWord> word = WordOf(slot)) {
    next->sequence = static_cast<std::uint8_t>(SequenceOf(*word));
    if (next->sequence != old.sequence) id = CgroupOf(*word);
  }
  if (id == kUnknownCgroup) id = label_.load(std::memory_order_relaxed);
  next->group = groups_.Find(id);
  return id != kUnknownCgroup;
}

IoStatus TierImpl::TryStore(SlotIndex slot, const std::byte* page, std::optional<Version> expected,
                            PageStore* store) {
  assert(slot < table_->slots());
  SlotRecord next;
  if (const std::optional<std::uint64_t> fill = SameFilled(page)) {
    next.state = SlotState::kSameFilled;
    next.fill = *fill;
  } else {
    const GroupIndex group = GroupHint(slot);
    const Compressed object = CompressPage(page, groups_.CompressorOf(group));
    const Room room = TakeRoomInTurn(group, object.bytes.size());
    if (room.entry == kNoEntry) {
      if (store == nullptr) return IoStatus::kWaits;
      return WaitForRoom(slot, object, expected, room.full, store);
    }
    const std::uint32_t checksum = PageChecksum(slot, object.codec, object.bytes);
    next = FillEntry(room.entry, object, checksum);
  }
  GroupIndex stored_in;
  {
    const auto lock = table_->Lock(slot);
    if (expected && table_->Get(slot).version != *expected) {
      if (next.InPool()) FreeEntry(next.object.entry);
      return IoStatus::kChanged;
    }
    stored_in = Publish(slot, next);
    if (!expected) stores_.Supersede(slot);
  }
  if (next.InPool()) shrinker_.AfterAllocation(stored_in);
  return IoStatus::kOk;
}

// The slot's lock is not needed: nobody knows the entry yet.
SlotRecord TierImpl::FillEntry(EntryRef entry, const Compressed& object, std::uint32_t checksum) {
  std::memcpy(pool_->Bytes(entry), object.bytes.data(), object.bytes.size());
  pool_->At(entry)->Describe(object.bytes.size(), config_.boot_seconds());
  SlotRecord record;
  record.state = SlotState::kLocal;
  record.codec = static_cast<std::uint8_t>(object.codec) & 3;
  record.object = {entry, checksum};
  return record;
}

GroupIndex TierImpl::Publish(SlotIndex slot, SlotRecord next) {
  const SlotRecord old = table_->Get(slot);
  next.version = NextVersion(old);
  const bool known = Attribute(slot, old, &next);
  Group& group = groups_.At(next.group);
  if (next.InPool()) {
    const EntryRef entry = next.object.entry;
    pool_->At(entry)->slot.store(slot, std::memory_order_relaxed);
    const auto owner = groups_.Lock(next.group);
    owner->lru.AddHot(entry);
    groups_.Add(owner, {static_cast<std::int64_t>(pool_->EntryBytesOf(entry)), 0, 0});
  }
  group.Count(Counter::stores);
  if (!known && words_.load(std::memory_order_relaxed) != nullptr) {
    group.Count(Counter::stores_unattributed);
  }
  if (next.state == SlotState::kSameFilled) group.Count(Counter::stores_same_filled);
  if (next.InPool() && static_cast<Codec>(next.codec) == Codec::kRaw) {
    group.Count(Counter::stores_raw);
  }
  if (old.state != SlotState::kEmpty) groups_.Of(old).Count(Counter::overwrites);
  Replace(slot, next);
  return next.group;
}

// Several stores at once may pass a group's limit by an entry each.
TierImpl::Room TierImpl::TakeRoom(GroupIndex group, std::size_t object_bytes) {
  if (groups_.any_limited()) {
    const GroupIndex over = groups_.OverLimit(group, Pool::EntryBytes(object_bytes), 100);
    if (over != tier::Groups::kNoGroup) return {kNoEntry, over};
  }
  return {pool_->Allocate(object_bytes), kRootGroup};
}

TierImpl::Room TierImpl::TakeRoomInTurn(GroupIndex group, std::size_t object_bytes) {
  if (stores_.AnyWaiting()) {
    const GroupIndex line = stores_.LineOf(group, object_bytes);
    if (line != StoreQueue::kNoLine) return {kNoEntry, line};
  }
  return TakeRoom(group, object_bytes);
}

IoStatus TierImpl::WaitForRoom(SlotIndex slot, const Compressed& object,
                               std::optional<Version> expected, GroupIndex full, PageStore* store) {
  store->slot_ = slot;
  store->expected_ = expected;
  store->codec_ = object.codec;
  store->object_bytes_ = object.bytes.size();
  store->checksum_ = PageChecksum(slot, object.codec, object.bytes);
  std::memcpy(store->memory_, object.bytes.data(), object.bytes.size());
  const auto lock = table_->Lock(slot);
  if (expected && table_->Get(slot).version != *expected) return IoStatus::kChanged;
  CountWait(GroupOf(slot), full);
  const std::optional<SlotWord> word = WordOf(slot);
  store->sequence_ = word ? std::optional(SequenceOf(*word)) : std::nullopt;
  if (stores_.Enter(store, full)) return IoStatus::kWaits;
  if (!expected) stores_.Supersede(slot);
  return Refuse(slot, full, expected.has_value());
}

void TierImpl::CountWait(GroupIndex group, GroupIndex full) {
  groups_.At(group).Count(full == kRootGroup ? Counter::pool_limit_hit : Counter::cgroup_limit_hit);
}

IoStatus TierImpl::StoreWaited(const PageStore& store, EntryRef entry) {
  if (store.expected_ && table_->Get(store.slot_).version != *store.expected_) {
    FreeEntry(entry);
    return IoStatus::kChanged;
  }
  const Compressed object{store.codec_, {store.memory_, store.object_bytes_}};
  Publish(store.slot_, FillEntry(entry, object, store.checksum_));
  return IoStatus::kOk;
}

// The old bytes of a whole page are stale now; those around a partial write are not.
IoStatus TierImpl::Refuse(SlotIndex slot, GroupIndex full, bool keep_old) {
  Group& group = groups_.At(GroupOf(slot));
  group.Count(full == kRootGroup ? Counter::reject_reclaim_fail : Counter::reject_cgroup_limit);
  if (keep_old) return IoStatus::kNoSpace;
  const SlotRecord& old = table_->Get(slot);
  if (old.state != SlotState::kEmpty) groups_.Of(old).Count(Counter::lost_failed_store);
  SlotRecord next;
  next.version = NextVersion(old);
  next.sequence = old.sequence;
  Replace(slot, next);
  return IoStatus::kNoSpace;
}

Tier::LoadResult TierImpl::Load(SlotIndex slot, std::byte* out) {
  SlotRecord seen;
  return LoadRecord(slot, out, &seen);
}

Tier::LoadResult TierImpl::LoadRecord(SlotIndex slot, std::byte* out, SlotRecord* seen) {
  assert(slot < table_->slots());
  // A clock costs a tenth of what a load does.
  constexpr std::uint32_t kSampled = 16;
  thread_local std::uint32_t loads = 0;
  const bool sampled = ++loads % kSampled == 0;
  const auto began =
      sampled ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point{};

  const auto lock = table_->Lock(slot);
  const SlotRecord& record = table_->Get(slot);
  Group& group = groups_.Of(record);
  *seen = record;
  switch (record.state) {
    case SlotState::kEmpty:
      FillPage(out, 0);
      group.Count(Counter::loads_empty);
      break;
    case SlotState::kSameFilled:
      FillPage(out, record.fill);
      group.Count(Counter::loads_same_filled);
      break;
    case SlotState::kRemote:
      return LoadResult::kRemote;
    case SlotState::kLocal:
    case SlotState::kClean:
    case SlotState::kWriting: {
      const Damage damage = Verify(ObjectInPool(slot), out);
      if (damage != Damage::kNone) {
        CountDamage(damage, &group);
        return LoadDamaged(slot, seen);
      }
      if (!record.referenced) {
        if (record.state == SlotState::kClean) group.Count(Counter::prefetch_hits);
        SlotRecord read = record;
        read.referenced = 1;
        table_->Set(slot, read);
      }
      group.Count(Counter::loads_local);
      break;
    }
  }
  if (sampled) group.local_latency.Add(std::chrono::steady_clock::now() - began);
  return LoadResult::kDone;
}

// Servers have what was clean: it is remote again, as when the shrinker drops it, to whatever is
// under way for the slot too. Of any other page there is nothing better.
Tier::LoadResult TierImpl::LoadDamaged(SlotIndex slot, SlotRecord* seen) {
  if (seen->state != SlotState::kClean) return LoadResult::kIoError;
  DropClean(slot, groups_.Lock(seen->group));
  stores_.RoomMade(groups_.Resolve(seen->group));
  *seen = table_->Get(slot);
  return LoadResult::kRemote;
}

PageObject TierImpl::ObjectInPool(SlotIndex slot) const {
  const SlotRecord& record = table_->Get(slot);
  const EntryRef entry = record.object.entry;
  return {slot,
          ObjectVersionOf(record),
          static_cast<Codec>(record.codec),
          record.object.checksum,
          0,
          {pool_->Bytes(entry), pool_->At(entry)->object_bytes()}};
}

bool TierImpl::EntryIntact(SlotIndex slot) const {
  const PageObject object = ObjectInPool(slot);
  return PageChecksum(slot, object.codec, object.bytes) == object.checksum;
}

TierImpl::Damage TierImpl::Verify(const PageObject& object, std::byte* out) {
  if (PageChecksum(object.slot, object.codec, object.bytes) != object.checksum) {
    return Damage::kChecksum;
  }
  return DecompressPage(object.codec, object.bytes, out) ? Damage::kNone : Damage::kNoPage;
}

void TierImpl::CountDamage(Damage damage, Group* group) {
  if (damage == Damage::kChecksum) group->Count(Counter::fail_checksum);
  if (damage == Damage::kNoPage) group->Count(Counter::decompress_fail);
}

void TierImpl::Invalidate(SlotIndex first, std::uint64_t count) {
  assert(first + count <= table_->slots());
  for (std::uint64_t index = first; index < first + count; ++index) {
    const auto slot = static_cast<SlotIndex>(index);
    const auto lock = table_->Lock(slot);
    stores_.Supersede(slot);
    const SlotRecord& old = table_->Get(slot);
    if (old.state == SlotState::kEmpty) continue;
    groups_.Of(old).Count(Counter::trims);
    SlotRecord next;
    next.version = NextVersion(old);
    next.sequence = old.sequence;
    Replace(slot, next);
  }
}

void TierImpl::UseSlotWords(const std::atomic<SlotWord>* words) {
  std::uint64_t slot = words != nullptr ? 0 : table_->slots();
  while (slot < table_->slots()) {
    const auto lock = table_->Lock(static_cast<SlotIndex>(slot));
    for (const std::uint64_t end = table_->UnitEnd(static_cast<SlotIndex>(slot)); slot < end;
         ++slot) {
      NoteEarlierSequence(static_cast<SlotIndex>(slot), words[slot]);
    }
  }
  words_.store(words, std::memory_order_release);
  table_->WaitForHolders();
}

// What a record keeps of other words, or of too many frees ago, is a number that the next write may
// well come to, and then pass for none. The page of a slot that is free already is kept: whether it
// came before that is not known. Of one in use, a write may be on its way to us. The slot's lock is
// held.
void TierImpl::NoteEarlierSequence(SlotIndex slot, SlotWord word) {
  SlotRecord record = table_->Get(slot);
  record.sequence = static_cast<std::uint8_t>(SequenceOf(word) - (IsFree(word) ? 0 : 1));
  table_->Set(slot, record);
}

// The word was FREE when it was looked at under the slot's lock, and not the one of the store: that
// store's page was freed, and none was written since, or its word would not be FREE. A page that is
// on its way to us in spite of that has not taken the lock yet, and will find the slot empty.
bool TierImpl::OnSlotFree(SlotIndex slot) {
  assert(slot < table_->slots());
  const auto lock = table_->Lock(slot);
  const std::optional<SlotWord> word = WordOf(slot);
  if (!word) return false;
  const bool superseded = IsFree(*word) && stores_.SupersedeFreed(slot, SequenceOf(*word));
  const SlotRecord& old = table_->Get(slot);
  if (old.state == SlotState::kEmpty) {
    NoteEarlierSequence(slot, *word);
    return superseded;
  }
  const auto sequence = static_cast<std::uint8_t>(SequenceOf(*word));
  if (!IsFree(*word) || sequence == old.sequence) {
    groups_.Of(old).Count(Counter::early_frees_kept);
    return superseded;
  }
  groups_.Of(old).Count(Counter::early_frees);
  SlotRecord next;
  next.version = NextVersion(old);
  next.sequence = sequence;
  Replace(slot, next);
  return true;
}

void TierImpl::SlotOwners(SlotIndex first, std::span<CgroupId> owners) {
  assert(first + owners.size() <= table_->slots());
  for (std::size_t i = 0; i < owners.size(); ++i) {
    const auto slot = static_cast<SlotIndex>(first + i);
    const auto lock = table_->Lock(slot);
    owners[i] = groups_.Of(table_->Get(slot)).id;
  }
}

bool TierImpl::PlaceCgroup(CgroupId id, CgroupId parent) {
  const bool placed = groups_.Place(id, parent);
  LimitsChanged();
  return placed;
}

void TierImpl::RemoveCgroup(CgroupId id) {
  if (groups_.Remove(id)) LimitsChanged();
}

bool TierImpl::ConfigureCgroup(CgroupId id, const GroupSettings& settings) {
  const bool done = groups_.Configure(id, settings);
  LimitsChanged();
  return done;
}

// Pages may have to leave now, or there is a sweep to do; and stores that wait may fit.
void TierImpl::LimitsChanged() {
  shrinker_.Wake();
  stores_.RoomMade();
}

void TierImpl::SetCompressor(const Compressor& compressor) {
  groups_.SetRootCompressor(compressor);
}

Outcome TierImpl::SetPacking(bool on) { return shrinker_.SetPacking(on); }

void TierImpl::SetRecompression(const std::optional<Compressor>& compressor) {
  shrinker_.SetRecompression(compressor);
}

Outcome TierImpl::SetLimits(std::uint64_t pool_bytes, std::uint32_t accept_threshold_percent) {
  if (pool_bytes < Pool::kPoolBytesMin || pool_bytes > config_.pool_bytes_max) {
    return Error{"a pool limit of " + std::to_string(pool_bytes) + " bytes is outside of " +
                 std::to_string(Pool::kPoolBytesMin) + " to the " +
                 std::to_string(config_.pool_bytes_max) + " that were allocated at start"};
  }
  Outcome valid = ValidateThreshold(accept_threshold_percent);
  if (!valid.ok()) return valid;
  pool_->SetSlabLimit(static_cast<std::uint32_t>(pool_bytes / Pool::kSlabBytes));
  shrinker_.SetAcceptThreshold(accept_threshold_percent);
  LimitsChanged();
  return Unit{};
}

bool TierImpl::StartManualWriteback(const WritebackJob& job) { return shrinker_.StartManual(job); }

void TierImpl::CancelManualWriteback() { shrinker_.CancelManual(); }

Tier::ManualWriteback TierImpl::ManualWritebackProgress() const {
  return shrinker_.ManualProgress();
}

void TierImpl::ShrinkAhead(CgroupId id, std::uint64_t pages, std::uint32_t older_than_s) {
  const GroupIndex index = id == kUnknownCgroup ? kRootGroup : groups_.IndexOf(id);
  if (index == tier::Groups::kNoGroup) return;
  groups_.At(index).ahead_older_than_s = older_than_s;
  groups_.At(index).ahead_pages = pages;
  shrinker_.Wake();
}

TierStats TierImpl::Stats() const {
  TierStats stats{};
  stats.pool_limit_bytes = pool_->capacity_bytes();
  stats.pool_used_bytes = pool_->used_bytes();
  stats.pool_entry_bytes = pool_->entry_bytes();
  stats.pool_payload_bytes = payload_bytes_.load(std::memory_order_relaxed);
  stats.metadata_bytes = table_->bytes();
  stats.accept_threshold_percent = shrinker_.accept_threshold_percent();
  stats.shrinking = shrinker_.shrinking();
  groups_.Total(&stats.pages, &stats.counters);
  return stats;
}

}  // namespace farswap::tier
