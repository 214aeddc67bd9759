#include "tier/store_queue.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/thread.h"

namespace farswap::tier {
namespace {

// Stores that find no room this far apart begin a new shortage.
constexpr std::chrono::milliseconds kShortageGap{10000};

}  // namespace

StoreQueue::StoreQueue(const TierConfig& config, Pages* pages, const SlotOwners* owners)
    : config_(config), pages_(*pages), owners_(*owners), lines_(Groups::kGroupsMax) {
  pages_.ReportRoomTo(this);
  static_assert(Groups::kGroupsMax <= kNoLine);
  thread_ = StartThread("fs-stores", [this] { Run(); });
}

void StoreQueue::Stop() {
  std::thread thread;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
    std::swap(thread, thread_);
  }
  if (thread.joinable()) thread.join();
}

// --- Stores and room ----------------------------------------------------------------------------

// The nearest line at or above a group with stores in it.
GroupIndex StoreQueue::LineAbove(GroupIndex group) const {
  while (lines_[group].stores.load() == 0) {
    if (group == kRootGroup) return kNoLine;
    group = pages_.groups().At(group).parent.load(std::memory_order_relaxed);
  }
  return group;
}

// The line that a new store must enter, though it might find room; kNoLine: none.
GroupIndex StoreQueue::LineOf(GroupIndex group, std::size_t object_bytes) {
  const GroupIndex line = LineAbove(group);
  if (line != kRootGroup) return line;
  const std::lock_guard lock(mutex_);
  return pool_sizes_[SizeOf(object_bytes)] > 0 ? kRootGroup : kNoLine;
}

Pages::Room StoreQueue::TakeRoom(GroupIndex group, std::size_t object_bytes) {
  if (AnyWaiting()) {
    const GroupIndex line = LineOf(group, object_bytes);
    if (line != kNoLine) return {kNoEntry, line};
  }
  return pages_.TakeRoom(group, object_bytes);
}

IoStatus StoreQueue::Wait(PendingStore* store, SlotIndex slot, const Compressed& object,
                          GroupIndex full) {
  store->slot_ = slot;
  store->codec_ = object.codec;
  store->object_bytes_ = object.bytes.size();
  store->checksum_ = PageChecksum(slot, object.codec, object.bytes);
  std::memcpy(store->memory_, object.bytes.data(), object.bytes.size());
  const auto lock = pages_.Lock(slot);
  CountWait(owners_.GroupOf(slot), full);
  store->sequence_ = owners_.SequenceOf(slot);
  if (Enter(store, full)) return IoStatus::kPending;
  Supersede(slot);
  return Refuse(slot, full);
}

void StoreQueue::CountWait(GroupIndex group, GroupIndex full) {
  pages_.groups().At(group).Count(full == kRootGroup ? Counter::pool_limit_hit
                                                     : Counter::cgroup_limit_hit);
}

// False: the store is refused. The slot's lock is held.
bool StoreQueue::Enter(PendingStore* store, GroupIndex full) {
  const std::lock_guard lock(mutex_);
  BeginToWait(full);
  if (!MayWait(full, store->object_bytes_)) return false;
  PendingStore** bucket = BucketOf(store->slot_);
  store->next_in_bucket_ = std::exchange(*bucket, store);
  Append(store, full);
  return true;
}

bool StoreQueue::Cancel(PendingStore* store) {
  const std::lock_guard lock(mutex_);
  if (store->line_ == kNoLine) return false;
  Leave(LinkTo(store->slot_, store));
  // Stores behind it may fit.
  WakeThread();
  return true;
}

bool StoreQueue::TakeOutAll(SlotIndex slot, std::optional<std::uint32_t> freed_at) {
  const std::lock_guard lock(mutex_);
  return TakeOut(BucketOf(slot), slot, freed_at);
}

// Supersedes stores of the slot, from `link` on; if it was freed, those whose word was another.
bool StoreQueue::TakeOut(PendingStore** link, SlotIndex slot,
                         std::optional<std::uint32_t> freed_at) {
  bool any = false;
  while (PendingStore* const store = *link) {
    const bool stays = freed_at && store->sequence_.value_or(*freed_at) == *freed_at;
    if (store->slot_ != slot || stays) {
      link = &store->next_in_bucket_;
      continue;
    }
    Leave(link);
    store->next_ = std::exchange(superseded_, store);
    WakeThread();
    any = true;
  }
  return any;
}

// With mutex_ held.
void StoreQueue::WakeThread() {
  look_again_.store(true);
  wake_.notify_one();
}

void StoreQueue::LookAgain() {
  if (look_again_.exchange(true)) return;
  const std::lock_guard lock(mutex_);
  wake_.notify_one();
}

bool StoreQueue::WantsRoom(GroupIndex group) {
  if (!AnyWaiting()) return false;
  const std::lock_guard lock(mutex_);
  const Line& line = lines_[group];
  return line.first != nullptr && line.tried_at_progress == pages_.groups().At(group).progress;
}

// --- The thread ---------------------------------------------------------------------------------

void StoreQueue::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {  // ends with Stop(), when nothing waits any more
    look_again_.store(false);
    AnswerSuperseded(lock);
    for (std::size_t i = pages_.groups().end(); i-- > 0;) {  // the pool's line comes last
      ServeLine(lock, static_cast<GroupIndex>(i));
    }
    if (look_again_.load()) continue;
    if (std::exchange(shrinker_wanted_, false)) room_maker_->Wake();
    if (waiting_.load() > 0) {
      wake_.wait_until(lock, NextDeadline());
    } else if (stopping_) {
      return;
    } else {
      wake_.wait(lock);
    }
  }
}

void StoreQueue::AnswerSuperseded(std::unique_lock<std::mutex>& lock) {
  while (superseded_ != nullptr) {
    PendingStore* const store = std::exchange(superseded_, superseded_->next_);
    lock.unlock();
    store->OnStored(IoStatus::kOk);
    lock.lock();
  }
}

void StoreQueue::ServeLine(std::unique_lock<std::mutex>& lock, GroupIndex at) {
  Sizes full;
  // Ends: each store leaves the line, or is skipped from then on.
  while (PendingStore* const store = NextInLine(at, full)) {
    const std::uint64_t progress = pages_.groups().At(at).progress.load();
    const std::size_t size = SizeOf(store->object_bytes_);
    if (Serve(lock, at, store)) continue;
    shrinker_wanted_ |= std::exchange(lines_[at].tried_at_progress, progress) != progress;
    if (at != kRootGroup) return;
    full.set(size);
  }
}

PendingStore* StoreQueue::NextInLine(GroupIndex at, const Sizes& full) const {
  PendingStore* store = lines_[at].first;
  while (store != nullptr && full.any() && full.test(SizeOf(store->object_bytes_))) {
    store = store->next_;
  }
  return store;
}

// One attempt. False: the store stays where it is. Before both locks are held, it may have been
// superseded or cancelled, and wait for another slot.
bool StoreQueue::Serve(std::unique_lock<std::mutex>& lock, GroupIndex at, PendingStore* store) {
  const SlotIndex slot = store->slot_;
  lock.unlock();
  IoStatus status = IoStatus::kOk;
  GroupIndex group;
  {
    const auto slot_lock = pages_.Lock(slot);
    group = owners_.GroupOf(slot);
    const std::optional<std::uint32_t> freed_at = owners_.FreedAt(slot);
    lock.lock();
    if (freed_at) TakeOut(BucketOf(slot), slot, freed_at);
    PendingStore** const link = LinkTo(slot, store);
    if (*link == nullptr || store->slot_ != slot || store->line_ != at) return true;
    const Pages::Room room = pages_.TakeRoom(group, store->object_bytes_);
    if (room.entry == kNoEntry) {
      if (room.full != at) {
        CountWait(group, room.full);
        BeginToWait(room.full);
      }
      if (MayWait(room.full, store->object_bytes_)) {
        if (room.full == at) return false;
        Unlink(store);
        Append(store, room.full);
        return true;
      }
    }
    // Any room ends a shortage.
    if (room.entry != kNoEntry) lines_[at].full_since = config_.now();
    Leave(link);
    TakeOut(link, slot, std::nullopt);  // earlier stores
    lock.unlock();
    if (room.entry != kNoEntry) {
      Keep(*store, room.entry);
    } else {
      status = Refuse(slot, room.full);
    }
  }
  if (status == IoStatus::kOk) room_maker_->AfterAllocation(group);
  store->OnStored(status);
  lock.lock();
  return true;
}

// The slot's lock is held.
void StoreQueue::Keep(const PendingStore& store, EntryRef entry) {
  const Compressed object{store.codec_, {store.memory_, store.object_bytes_}};
  SlotRecord next = pages_.Fill(entry, object, store.checksum_, config_.boot_seconds());
  owners_.Attribute(store.slot_, &next);
  pages_.Publish(store.slot_, next);
}

// Empties the slot: its old page is stale. The slot's lock is held.
IoStatus StoreQueue::Refuse(SlotIndex slot, GroupIndex full) {
  Group& group = pages_.groups().At(owners_.GroupOf(slot));
  group.Count(full == kRootGroup ? Counter::reject_reclaim_fail : Counter::reject_cgroup_limit);
  pages_.Forget(slot, Counter::lost_failed_store, pages_.Get(slot).sequence);
  return IoStatus::kNoSpace;
}

// --- Lines, with mutex_ held --------------------------------------------------------------------

// A store that joins a shortage has as little time left as the others.
void StoreQueue::BeginToWait(GroupIndex at) {
  Line& line = lines_[at];
  const auto now = config_.now();
  const std::uint64_t progress = pages_.groups().At(at).progress.load();
  if (now - line.last_full > kShortageGap || line.progress_when_full != progress) {
    line.full_since = now;
  }
  line.last_full = now;
  line.progress_when_full = progress;
}

StoreQueue::Clock::time_point StoreQueue::Deadline(GroupIndex at) const {
  const Clock::time_point last_progress{
      Clock::duration{pages_.groups().At(at).last_progress_ns.load()}};
  return std::max(lines_[at].full_since, last_progress) + config_.store_wait;
}

// If nothing may leave the pool, the last that could may just have left it, or the cgroup was
// removed with its limit: then there is room, and RoomMade() follows.
bool StoreQueue::MayWait(GroupIndex at, std::size_t object_bytes) const {
  if (stopping_ || config_.now() >= Deadline(at)) return false;
  return pages_.groups().MayMakeRoom(at) ||
         pages_.groups().OverLimit(at, Pool::EntryBytes(object_bytes), 100) != at;
}

StoreQueue::Clock::time_point StoreQueue::NextDeadline() const {
  auto next = Clock::time_point::max();
  for (std::size_t i = 0; i < pages_.groups().end(); ++i) {
    if (lines_[i].first != nullptr) next = std::min(next, Deadline(static_cast<GroupIndex>(i)));
  }
  return next;
}

// Wakes the thread: room made before the store was counted went unnoticed.
void StoreQueue::Append(PendingStore* store, GroupIndex at) {
  Line& line = lines_[at];
  store->line_ = at;
  store->previous_ = line.last;
  store->next_ = nullptr;
  (line.last == nullptr ? line.first : line.last->next_) = store;
  line.last = store;
  if (at == kRootGroup) ++pool_sizes_[SizeOf(store->object_bytes_)];
  line.stores.fetch_add(1);
  waiting_.fetch_add(1);
  WakeThread();
}

void StoreQueue::Unlink(PendingStore* store) {
  Line& line = lines_[store->line_];
  (store->previous_ == nullptr ? line.first : store->previous_->next_) = store->next_;
  (store->next_ == nullptr ? line.last : store->next_->previous_) = store->previous_;
  if (store->line_ == kRootGroup) --pool_sizes_[SizeOf(store->object_bytes_)];
  if (line.first == nullptr) line.tried_at_progress = kNever;
  line.stores.fetch_sub(1);
  waiting_.fetch_sub(1);
  store->line_ = kNoLine;
}

// The link to the store if it is in a line, else to nullptr.
PendingStore** StoreQueue::LinkTo(SlotIndex slot, const PendingStore* store) {
  PendingStore** link = BucketOf(slot);
  while (*link != nullptr && *link != store) link = &(*link)->next_in_bucket_;
  return link;
}

void StoreQueue::Leave(PendingStore** link) {
  Unlink(*link);
  *link = (*link)->next_in_bucket_;
}

}  // namespace farswap::tier
