// Every change of a slot's record takes these steps, so that a scan of the slot table after the
// process died at any instruction finds each page whole and each entry in at most one record:
//
//   1. bytes     the entry holds the object, its description and its slot
//   2. record    one 16-byte store replaces the old record (SlotTable::Set)
//   3. free      the entry of the old record goes back to the pool
//   4. marks     stale objects on servers are marked
//
// LRU links, charges and counts follow from the records and can be rebuilt. They change before the
// entry is freed, since the links are in its header.
#include "tier/pages.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "base/step.h"
#include "tier/bundle.h"

namespace farswap::tier {

Pages::Pages(std::shared_ptr<State> state, StaleObjects* stale)
    : state_(std::move(state)),
      version_wraps_(state_->version_wraps()),
      bundle_version_(state_->bundle_version()),
      table_(state_->slots()),
      pool_(state_->pool()),
      stale_(stale),
      groups_(&pool_, state_->group_ids()) {}

bool Pages::Intact(SlotIndex slot) const {
  const Object object = ObjectOf(slot);
  return PageChecksum(slot, object.codec, object.bytes) == object.checksum;
}

Version Pages::NextVersion(const SlotRecord& record) {
  if (record.version == std::numeric_limits<Version>::max()) {
    version_wraps_.fetch_add(1, std::memory_order_relaxed);
  }
  return record.version + 1;
}

// --- What follows from a record -----------------------------------------------------------------

Charge Pages::ChargeOf(const SlotRecord& record) const {
  Charge charge;
  if (record.InPool()) {
    charge.pool_bytes = static_cast<std::int64_t>(pool_.EntryBytesOf(record.object.entry));
  }
  if (record.state == SlotState::kWriting) charge.writing_bytes = charge.pool_bytes;
  const bool away = record.state == SlotState::kRemote || record.state == SlotState::kClean;
  if (away || record.state == SlotState::kWriting) charge.remote_pages = 1;
  return charge;
}

// Exact whenever no operation runs.
void Pages::Count(Group& group, const SlotRecord& record, int by) {
  if (record.state == SlotState::kEmpty) return;
  const auto delta = static_cast<std::uint64_t>(static_cast<std::int64_t>(by));
  group.pages_by_state[static_cast<std::size_t>(record.state)].fetch_add(delta,
                                                                         std::memory_order_relaxed);
  if (!record.InPool()) return;
  payload_bytes_.fetch_add(delta * pool_.At(record.object.entry)->object_bytes(),
                           std::memory_order_relaxed);
  if (static_cast<Codec>(record.codec) == Codec::kRaw) {
    group.raw_pages.fetch_add(delta, std::memory_order_relaxed);
  }
}

// In a group's counts, charges and LRU, one page takes the place of another; an empty record stands
// for none. One charge, so that the group never looks smaller than it is.
void Pages::Account(GroupIndex index, const SlotRecord& old, const SlotRecord& next,
                    LruPlace place) {
  if (!old.HasObject() && !next.HasObject()) {
    if (old.state == next.state) return;
    Group& group = groups_.At(groups_.Resolve(index));
    Count(group, next, +1);
    Count(group, old, -1);
    return;
  }
  const auto group = groups_.Lock(index);
  Count(*group, next, +1);
  Count(*group, old, -1);
  groups_.Add(group, ChargeOf(next) - ChargeOf(old));
  if (place == LruPlace::kSame && old.OnLru()) {
    group->lru.Replace(old.object.entry, next.object.entry);
    return;
  }
  if (old.OnLru()) group->lru.Remove(old.object.entry);
  if (!next.OnLru()) return;
  if (place == LruPlace::kHot) {
    group->lru.AddHot(next.object.entry);
  } else {
    group->lru.AddCold(next.object.entry);
  }
}

// Step 2, with all that follows from the record.
void Pages::Change(SlotIndex slot, const SlotRecord& next, LruPlace place) {
  const SlotRecord old = table_.Get(slot);
  const bool moves = old.group != next.group && old.state != SlotState::kEmpty &&
                     next.state != SlotState::kEmpty &&
                     groups_.Resolve(old.group) != groups_.Resolve(next.group);
  if (moves) {
    Account(next.group, SlotRecord{}, next, place);
    table_.Set(slot, next);
    Account(old.group, old, SlotRecord{}, place);
  } else {
    Account(next.state == SlotState::kEmpty ? old.group : next.group, old, next, place);
    table_.Set(slot, next);
  }
}

// --- Stores and trims ---------------------------------------------------------------------------

// Several stores at once may pass a group's limit by an entry each.
Pages::Room Pages::TakeRoom(GroupIndex group, std::size_t object_bytes) {
  if (groups_.any_limited()) {
    const GroupIndex over = groups_.OverLimit(group, Pool::EntryBytes(object_bytes), 100);
    if (over != Groups::kNoGroup) return {kNoEntry, over};
  }
  return {pool_.Allocate(object_bytes), kRootGroup};
}

SlotRecord Pages::Fill(EntryRef entry, const Compressed& object, std::uint32_t checksum,
                       std::uint32_t stored_boot_s) {
  std::memcpy(pool_.Bytes(entry), object.bytes.data(), object.bytes.size());
  pool_.At(entry)->Describe(object.bytes.size(), stored_boot_s);
  Reach(Step::kFilled);
  SlotRecord record;
  record.state = SlotState::kLocal;
  record.codec = static_cast<std::uint8_t>(object.codec) & 3;
  record.object = {entry, checksum};
  return record;
}

void Pages::Free(EntryRef entry) {
  pool_.Free(entry);
  room_->RoomMade(kRootGroup);
}

void Pages::Publish(SlotIndex slot, SlotRecord next) {
  const SlotRecord& old = table_.Get(slot);
  Group& group = groups_.At(next.group);
  group.Count(Counter::stores);
  if (next.state == SlotState::kSameFilled) group.Count(Counter::stores_same_filled);
  if (next.InPool() && static_cast<Codec>(next.codec) == Codec::kRaw) {
    group.Count(Counter::stores_raw);
  }
  if (old.state != SlotState::kEmpty) groups_.Of(old).Count(Counter::overwrites);
  Replace(slot, next);
}

void Pages::Forget(SlotIndex slot, Counter reason, std::uint8_t sequence) {
  const SlotRecord& old = table_.Get(slot);
  if (old.state != SlotState::kEmpty) groups_.Of(old).Count(reason);
  SlotRecord next;
  next.sequence = sequence;
  Replace(slot, next);
}

// The slot gets another page, or none: steps 2 to 4.
void Pages::Replace(SlotIndex slot, SlotRecord next) {
  const SlotRecord old = table_.Get(slot);
  const bool page_stale = old.state == SlotState::kRemote && !old.in_bundle;
  next.version = NextVersion(old);
  next.stale_remote = old.stale_remote || page_stale ? 1 : 0;
  if (next.InPool()) pool_.At(next.object.entry)->slot.store(slot, std::memory_order_relaxed);
  Reach(Step::kNamed);
  Change(slot, next);
  Reach(Step::kReplaced);
  if (old.InPool()) {
    pool_.Free(old.object.entry);
    Reach(Step::kFreed);
    room_->RoomMade(groups_.Resolve(old.group));
  }
  // A page being written ends as raced, and is discarded then.
  if (next.stale_remote) stale_->Mark(slot);
  if (old.in_bundle && !table_.AnyInBundle(slot)) stale_->MarkBundle(slot);
}

void Pages::NoteSequence(SlotIndex slot, std::uint8_t sequence) {
  SlotRecord record = table_.Get(slot);
  record.sequence = sequence;
  table_.Set(slot, record);
}

void Pages::NoteRead(SlotIndex slot) {
  SlotRecord record = table_.Get(slot);
  if (record.state == SlotState::kClean) groups_.Of(record).Count(Counter::neighbour_hits);
  record.referenced = 1;
  table_.Set(slot, record);
}

// --- Writeback ----------------------------------------------------------------------------------

std::size_t Pages::BeginWriteback(SlotIndex slot, Counter cause, std::uint32_t boot_s,
                                  std::byte* copy, Object* page) {
  SlotRecord next = table_.Get(slot);
  const EntryRef entry = next.object.entry;
  *page = ObjectOf(slot);
  page->stored_boot_s = boot_s - pool_.At(entry)->AgeSeconds(boot_s);
  std::memcpy(copy, page->bytes.data(), page->bytes.size());
  page->bytes = {copy, page->bytes.size()};
  next.state = SlotState::kWriting;
  Change(slot, next);
  Reach(Step::kTaken);
  groups_.Of(next).Count(cause);
  return pool_.EntryBytesOf(entry);
}

ObjectVersion Pages::JoinBundle(std::span<const Object> pages) {
  const auto lock = table_.Lock(pages[0].key);
  for (const Object& page : pages) {
    SlotRecord record = table_.Get(page.key);
    if (record.state != SlotState::kWriting) continue;
    if (record.version != SlotVersionOf(page.version)) continue;
    record.in_bundle = 1;
    table_.Set(page.key, record);
    Reach(Step::kJoined);
  }
  return ++bundle_version_;
}

bool Pages::EndWriteback(const Object& page, PutResult result, Groups::Time now) {
  const auto lock = table_.Lock(page.key);
  SlotRecord record = table_.Get(page.key);
  if (record.state == SlotState::kWriting && record.version == SlotVersionOf(page.version)) {
    return Settle(page.key, result, page.bytes.size(), page.codec, now);
  }
  groups_.Of(record).Count(Counter::writeback_raced);
  if (result != PutResult::kAcked && result != PutResult::kUnavailable) return false;
  if (record.state == SlotState::kRemote && !record.in_bundle)
    return false;  // sent since, replaced
  record.stale_remote = 1;
  table_.Set(page.key, record);
  Reach(Step::kRaced);
  stale_->Mark(page.key);
  return false;
}

std::size_t Pages::EndBundle(const Object& bundle, PutResult result, Groups::Time now) {
  const auto view = ParseBundle(bundle.bytes);
  const SlotIndex first = FirstSlotOf(bundle.key);
  std::size_t acked = 0;
  // Of the bytes sent each page has its share, the first one also what is left.
  const std::size_t share = bundle.bytes.size() / view->count();
  std::size_t sent_bytes = bundle.bytes.size() - share * (view->count() - 1);
  const auto lock = table_.Lock(first);
  for (std::size_t member = 0; member < kBundleSlots; ++member) {
    if (!view->Has(member)) continue;
    const auto slot = static_cast<SlotIndex>(first + member);
    const SlotRecord& record = table_.Get(slot);
    if (record.state == SlotState::kWriting && record.in_bundle &&
        record.version == view->versions[member]) {
      if (Settle(slot, result, std::exchange(sent_bytes, share), Codec::kZstd, now)) ++acked;
    } else {
      groups_.Of(record).Count(Counter::writeback_raced);
    }
  }
  if (!table_.AnyInBundle(first)) stale_->MarkBundle(first);
  return acked;
}

// Ends the write of the slot's page. Its entry stays in the pool unless the server has the page.
bool Pages::Settle(SlotIndex slot, PutResult result, std::size_t sent_bytes, Codec codec,
                   Groups::Time now) {
  SlotRecord next = table_.Get(slot);
  if (result != PutResult::kAcked) {
    Stay(&next, result);
    const bool rejected = result == PutResult::kRejected || result == PutResult::kSuperseded;
    // To the hot end: a page that a server rejects must not block all others.
    Change(slot, next, rejected ? LruPlace::kHot : LruPlace::kCold);
    Reach(Step::kStayed);
    return false;
  }
  const EntryRef entry = next.object.entry;
  next.state = SlotState::kRemote;
  next.codec = static_cast<std::uint8_t>(codec) & 3;
  next.away = {next.in_bundle ? 0 : static_cast<std::uint32_t>(sent_bytes), 0};
  next.referenced = 0;
  if (!next.in_bundle) next.stale_remote = 0;  // it took the stale page's place
  Change(slot, next);
  Reach(Step::kSettled);
  pool_.Free(entry);
  Reach(Step::kSettledFree);
  if (next.stale_remote) stale_->Mark(slot);
  const GroupIndex group = groups_.Resolve(next.group);
  groups_.At(group).Count(Counter::written_back_pages);
  groups_.At(group).Count(Counter::written_back_bytes, sent_bytes);
  groups_.ReportProgress(group, now);
  return true;
}

void Pages::Stay(SlotRecord* next, PutResult result) {
  Counter reason = Counter::writeback_failed_rejected;
  if (result == PutResult::kServerFull) reason = Counter::writeback_failed_full;
  if (result == PutResult::kUnavailable) reason = Counter::writeback_failed_unavailable;
  groups_.Of(*next).Count(reason);
  next->state = SlotState::kLocal;
  // A server may have kept the page. With a higher version in the record that page is stale: the
  // next writeback replaces it, any other change of the slot discards it.
  if (result == PutResult::kUnavailable && !next->in_bundle) {
    next->version = NextVersion(*next);
    next->stale_remote = 1;
  }
  next->in_bundle = 0;
}

void Pages::Spare(SlotIndex slot, Counter why) {
  SlotRecord record = table_.Get(slot);
  record.referenced = 0;
  table_.Set(slot, record);
  const auto group = groups_.Lock(record.group);
  group->lru.MoveToHot(record.object.entry);
  group->Count(why);
}

void Pages::AdoptClean(SlotIndex slot, const SlotRecord& filled) {
  SlotRecord next = table_.Get(slot);
  next.state = SlotState::kClean;
  next.codec = filled.codec;
  next.referenced = 0;
  next.object = filled.object;
  pool_.At(next.object.entry)->slot.store(slot, std::memory_order_relaxed);
  Change(slot, next, LruPlace::kCold);
  Reach(Step::kAdopted);
  groups_.Of(next).Count(Counter::neighbours_adopted);
}

std::size_t Pages::DropClean(SlotIndex slot) {
  SlotRecord next = table_.Get(slot);
  const EntryRef entry = next.object.entry;
  const std::size_t bytes = pool_.EntryBytesOf(entry);
  next.state = SlotState::kRemote;
  next.referenced = 0;
  next.away = {0, 0};
  Change(slot, next);
  Reach(Step::kDropped);
  pool_.Free(entry);
  room_->RoomMade(groups_.Resolve(next.group));
  groups_.Of(next).Count(Counter::clean_dropped);
  return bytes;
}

// --- Upkeep -------------------------------------------------------------------------------------

// Since BeginDrain() the entry may have been freed, overwritten, isolated for writeback or its slot
// trimmed. All of them change the slot's record, which is checked under its lock. An entry of a
// draining slab is not allocated again meanwhile.
bool Pages::Move(EntryRef from) {
  const SlotIndex slot = pool_.At(from)->slot.load(std::memory_order_relaxed);
  if (slot == kNoSlot) return true;
  const auto lock = table_.Lock(slot);
  SlotRecord next = table_.Get(slot);
  if (!next.InPool() || next.object.entry != from) return true;
  const std::size_t bytes = pool_.At(from)->object_bytes();
  const EntryRef to = pool_.Allocate(bytes);
  if (to == kNoEntry) return false;
  std::memcpy(pool_.Bytes(to), pool_.Bytes(from), bytes);
  pool_.At(to)->CopyDescription(*pool_.At(from));
  pool_.At(to)->slot.store(slot, std::memory_order_relaxed);
  next.object.entry = to;
  Reach(Step::kCopied);
  Change(slot, next, LruPlace::kSame);
  Reach(Step::kMoved);
  pool_.Free(from);
  groups_.Of(next).Count(Counter::compactions);
  return true;
}

void Pages::TakeStale(const StaleObjects::Chunk& chunk, std::vector<DiscardItem>* stale) {
  // A bundle of these slots on servers is older than the next one sent. One sent since the mark has
  // replaced the marked one.
  for (std::uint32_t bundles = chunk.bundles; bundles != 0; bundles &= bundles - 1) {
    const auto bundle = static_cast<SlotIndex>(std::countr_zero(bundles));
    const SlotIndex first = chunk.first + bundle * kBundleSlots;
    const auto lock = table_.Lock(first);
    if (!table_.AnyInBundle(first)) stale->push_back({BundleKeyOf(first), bundle_version_});
  }
  const auto end = std::min<std::uint64_t>(slots(), chunk.first + StaleObjects::kChunkSlots);
  ForEach(chunk.first, end, [&](SlotIndex slot) {
    SlotRecord record = table_.Get(slot);
    if (!record.stale_remote) return;
    // The discard must not reach a page being written, which may have been sent before the last
    // version wrap.
    if (record.state == SlotState::kWriting && !record.in_bundle) {
      stale_->Mark(slot);
      return;
    }
    // What servers have is older than the record; what they get later is not.
    stale->push_back({slot, ObjectVersionOf(record) - 1});
    record.stale_remote = 0;
    table_.Set(slot, record);
    Reach(Step::kListed);
  });
}

void Pages::ListWanted(SlotIndex first_of_shard, std::vector<Wanted>* wanted) {
  std::vector<Wanted> bundles;
  const auto end = std::min<std::uint64_t>(slots(), std::uint64_t{first_of_shard} + kShardSlots);
  ForEach(first_of_shard, end, [&](SlotIndex slot) {
    const SlotRecord& record = table_.Get(slot);
    const bool remote = record.state == SlotState::kRemote;
    if (!remote && record.state != SlotState::kClean) return;
    if (!record.in_bundle) return wanted->push_back({slot, record.version, 1});
    const ObjectKey key = BundleKeyOf(slot);
    if (bundles.empty() || bundles.back().key != key) bundles.push_back({key, 0, 0});
    bundles.back().pages += remote ? 1 : 0;
  });
  wanted->insert(wanted->end(), bundles.begin(), bundles.end());
}

// The listing is older than the record, so the object's version is not higher. TakeStale() decides
// up to which version it is discarded.
void Pages::OnListed(ObjectKey key) {
  const SlotIndex slot = FirstSlotOf(key);
  if (slot >= slots()) return;
  const auto lock = table_.Lock(slot);
  if (IsBundleKey(key)) {
    if (!table_.AnyInBundle(slot)) stale_->MarkBundle(slot);
    return;
  }
  SlotRecord record = table_.Get(slot);
  const bool wanted = record.state == SlotState::kRemote && !record.in_bundle;
  if (wanted || record.stale_remote || ObjectVersionOf(record) == 0) return;
  record.stale_remote = 1;
  table_.Set(slot, record);
  stale_->Mark(slot);
}

// After a death; see Recover(). No answer comes to what was being written.
void Pages::RecoverRecord(SlotIndex slot) {
  SlotRecord record = table_.Get(slot);
  record.group = groups_.Resolve(record.group);
  if (record.state == SlotState::kWriting) Stay(&record, PutResult::kUnavailable);
  table_.Set(slot, record);
  Reach(Step::kRecovered);
}

void Pages::Reparent(std::uint64_t first, std::uint64_t end) {
  ForEach(first, end, [this](SlotIndex slot) {
    SlotRecord record = table_.Get(slot);
    const GroupIndex now = groups_.Resolve(record.group);
    if (now == record.group) return;
    record.group = now;
    table_.Set(slot, record);
    Reach(Step::kReparented);
  });
}

}  // namespace farswap::tier
