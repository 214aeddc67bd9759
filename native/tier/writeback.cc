#include "tier/writeback.h"

#include <algorithm>
#include <utility>

namespace farswap::tier {

Result<std::unique_ptr<Memory>> Writeback::CreateArenas() {
  return Memory::Create(kBatches * PutBatch::kObjectsMax * kPageBytes, "put-arenas");
}

Writeback::Writeback(const TierConfig& config, RemoteStore* remote, Pages* pages,
                     StaleObjects* stale, Packer* packer, std::unique_ptr<Memory> arenas)
    : config_(config),
      remote_(*remote),
      pages_(*pages),
      groups_(pages->groups()),
      stale_(*stale),
      packer_(*packer),
      arenas_(std::move(arenas)) {
  discards_.reserve(RemoteStore::kDiscardsMax);
  for (std::size_t i = 0; i < kBatches; ++i) {
    batches_[i].writeback = this;
    batches_[i].arena = arenas_->data() + i * PutBatch::kObjectsMax * kPageBytes;
    free_batches_.push_back(&batches_[i]);
  }
}

// --- A batch is filled --------------------------------------------------------------------------

Writeback::Batch* Writeback::Begin(const Request& request) {
  if (!remote_.Writable()) return nullptr;
  const std::lock_guard lock(mutex_);
  if (free_batches_.empty() || config_.now() < retry_at_) return nullptr;
  Batch* const batch = free_batches_.back();
  free_batches_.pop_back();
  batch->request = request;
  batch->count = batch->spared = batch->run_count = 0;
  batch->entry_bytes = batch->dropped_bytes = 0;
  return batch;
}

bool Writeback::HasEntries(GroupIndex index, const Request& request) const {
  const Group& group = groups_.At(index);
  const bool any_clean = group.pages_by_state[static_cast<std::size_t>(SlotState::kClean)] > 0;
  if (group.lru.size() == 0 || (!any_clean && !groups_.MayWriteBack(index))) return false;
  return request.descendants ? groups_.IsWithin(index, request.group) : index == request.group;
}

void Writeback::TakeColdest(Batch* batch, GroupIndex group, std::size_t pages) {
  // A round of the LRU spares no entry twice. More tries are for entries that change meanwhile.
  std::uint64_t tries = 2 * groups_.At(group).lru.size() + pages;
  const std::size_t enough = batch->looked_at() + pages;
  while (batch->looked_at() < enough && !batch->full() && tries-- > 0) {
    const Lru::Hint coldest = groups_.Lock(group)->lru.Coldest();
    if (coldest.entry == kNoEntry) return;
    if (Isolate(batch, coldest.slot, coldest.entry) == Taken::kNoMore) return;
  }
}

// Takes one entry. kNotThis: it was spared, or has changed since it was picked. kNoMore: the ones
// behind it are not to be taken either.
Writeback::Taken Writeback::Isolate(Batch* batch, SlotIndex slot, EntryRef entry) {
  if (slot == kNoSlot) return Taken::kNotThis;
  const auto lock = pages_.Lock(slot);
  const SlotRecord& record = pages_.Get(slot);
  if (!record.OnLru() || record.object.entry != entry) return Taken::kNotThis;
  // The group may have been reparented or configured, or have reached its quota, meanwhile.
  const GroupIndex index = groups_.Resolve(record.group);
  if (!HasEntries(index, batch->request)) return Taken::kNoMore;
  const std::uint32_t boot_s = config_.boot_seconds();
  const std::uint32_t age_s = pages_.pool().At(entry)->AgeSeconds(boot_s);
  if (age_s < batch->request.older_than_s) return Taken::kNoMore;
  if (record.state == SlotState::kClean) {
    // No second chance: its reader has the page.
    batch->dropped_bytes += pages_.DropClean(slot);
    groups_.ReportProgress(index, config_.now());
    return Taken::kYes;
  }
  if (!groups_.MayWriteBack(index)) return Taken::kNoMore;
  if (record.referenced && config_.second_chance) {
    pages_.Spare(slot, Counter::second_chances);
    if (batch->request.spares_count) ++batch->spared;
    return Taken::kNotThis;
  }
  if (!pages_.Intact(slot)) {
    // To the hot end, as what a server refuses: it must not block all others.
    pages_.Spare(slot, Counter::fail_checksum);
    return Taken::kNotThis;
  }
  if (packer_.packing() && !pages_.AnyInBundle(slot)) {
    TakeWithNeighbours(batch, slot, boot_s);
  } else {
    Take(batch, slot, boot_s);
  }
  return Taken::kYes;
}

// Copies a local entry, which is intact. The slot's lock is held.
void Writeback::Take(Batch* batch, SlotIndex slot, std::uint32_t boot_s) {
  const std::size_t index = batch->count++;
  batch->entry_bytes +=
      pages_.BeginWriteback(slot, batch->request.cause, boot_s, batch->arena + index * kPageBytes,
                            &batch->objects[index]);
}

// Takes a local entry and, by slot, the entries of its bundle's slots that are about as cold and of
// the same group. The slot's lock is held.
void Writeback::TakeWithNeighbours(Batch* batch, SlotIndex slot, std::uint32_t boot_s) {
  const auto age_s = [&](const SlotRecord& record) {
    return pages_.pool().At(record.object.entry)->AgeSeconds(boot_s);
  };
  const GroupIndex index = groups_.Resolve(pages_.Get(slot).group);
  // Half as old, in whole ticks: pages stored one after the other may be a tick apart.
  constexpr std::uint32_t kTick = Entry::kTickSeconds;
  const std::uint32_t half_age_s = age_s(pages_.Get(slot)) / 2 / kTick * kTick;
  const std::uint32_t old_s = std::max(batch->request.older_than_s, half_age_s);
  const std::size_t first = batch->count;
  for (std::uint64_t i = slot / kBundleSlots * kBundleSlots; i < pages_.BundleEnd(slot); ++i) {
    if (batch->looked_at() >= batch->request.pages_max || !groups_.MayWriteBack(index)) break;
    const auto neighbour = static_cast<SlotIndex>(i);
    const SlotRecord& record = pages_.Get(neighbour);
    const bool cold = record.state == SlotState::kLocal && !record.referenced &&
                      groups_.Resolve(record.group) == index && age_s(record) >= old_s;
    if (neighbour == slot || (cold && pages_.Intact(neighbour))) Take(batch, neighbour, boot_s);
  }
  const std::size_t taken = batch->count - first;
  if (taken > 1) batch->runs[batch->run_count++] = {first, taken};
}

// --- It is sent, and answered -------------------------------------------------------------------

WorkResult Writeback::Send(Batch* batch) {
  {
    const std::lock_guard lock(mutex_);
    if (batch->count == 0) {
      free_batches_.push_back(batch);
      if (batch->dropped_bytes > 0 || batch->spared > 0) return WorkResult::kWorked;
      return free_batches_.size() == kBatches ? WorkResult::kNothingToDo : WorkResult::kBlocked;
    }
    ++unanswered_;
  }
  in_flight_bytes_.fetch_add(batch->entry_bytes);
  batch->page_count = batch->count;
  batch->count = packer_.Pack({batch->objects.data(), batch->page_count},
                              {batch->runs.data(), batch->run_count}, batch->arena);
  remote_.Put(batch);
  return WorkResult::kWorked;
}

// On a thread of the RemoteStore.
void Writeback::Finish(Batch* batch) {
  const Groups::Time now = config_.now();
  Answer answer{.cause = batch->request.cause, .pages = batch->page_count};
  bool failed = false;
  for (std::size_t i = 0; i < batch->count; ++i) {
    const Object& object = batch->objects[i];
    const PutResult result = batch->results[i];
    const std::size_t acked = IsBundleKey(object.key)
                                  ? pages_.EndBundle(object, result, now)
                                  : std::size_t{pages_.EndWriteback(object, result, now)};
    answer.acked_pages += acked;
    if (acked > 0) answer.acked_bytes += object.bytes.size();
    failed |= result != PutResult::kAcked;
    answer.server_full |= result == PutResult::kServerFull;
  }
  in_flight_bytes_.fetch_sub(batch->entry_bytes);
  {
    const std::lock_guard lock(mutex_);
    backoff_ = failed ? std::clamp(backoff_ * 2, kBackoffMin, kBackoffMax) : backoff_.zero();
    if (failed) retry_at_ = now + backoff_;
    free_batches_.push_back(batch);
  }
  listener_->OnAnswered(answer);
  const std::lock_guard lock(mutex_);
  // Notified under the lock: the waiter may destroy this as soon as it is released.
  if (--unanswered_ == 0) idle_.notify_all();
}

std::chrono::milliseconds Writeback::retry_delay() const {
  const std::lock_guard lock(mutex_);
  return std::max(kBackoffMin, backoff_);
}

void Writeback::WaitForBatches() {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return unanswered_ == 0; });
}

void Writeback::SendDiscards() {
  stale_.BeginRound();
  SlotIndex from = 0;
  while (const auto chunk = stale_.TakeChunk(from)) {
    from = chunk->first + StaleObjects::kChunkSlots;
    if (!remote_.TakesDiscards(chunk->first)) {
      stale_.PutBack(*chunk);
      continue;
    }
    pages_.TakeStale(*chunk, &discards_);
    if (discards_.empty()) continue;
    remote_.Discard(discards_);
    groups_.At(kRootGroup).Count(Counter::discards_sent, discards_.size());
    discards_.clear();
  }
}

}  // namespace farswap::tier
