#include "tier/shrinker.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/thread.h"
#include "tier/codec.h"
#include "tier/tier_impl.h"

namespace farswap::tier {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kBackoffMin{20};
constexpr milliseconds kBackoffMax{500};
// Stale remote pages are collected this long, so that they are discarded in batches.
constexpr milliseconds kDiscardDelay{100};
constexpr std::size_t kDiscardBatch = 1024;
// Stores that find no room this far apart are not one shortage: each may wait anew.
constexpr milliseconds kShortageGap{10000};

}  // namespace

Result<std::unique_ptr<LockedMapping>> Shrinker::CreateArenas() {
  return LockedMapping::Create(kBatches * PutBatch::kPagesMax * kPageBytes, "put-arenas");
}

Shrinker::Shrinker(TierImpl* tier, std::unique_ptr<LockedMapping> arenas)
    : tier_(tier),
      high_bytes_(tier->pool_->capacity_bytes() * (100 + tier->config_.accept_threshold_percent) /
                  200),
      accept_bytes_(tier->pool_->capacity_bytes() * tier->config_.accept_threshold_percent / 100),
      reserve_slabs_(std::max(1u, tier->pool_->slab_count() / 100)),
      discards_((tier->table_->slots() + 63) / 64),
      arenas_(std::move(arenas)) {
  for (std::size_t i = 0; i < kBatches; ++i) {
    batches_[i].shrinker = this;
    batches_[i].arena = arenas_->data() + i * PutBatch::kPagesMax * kPageBytes;
    free_batches_.push_back(&batches_[i]);
  }
  thread_ = StartThread("fs-shrinker", [this] { Run(); });
}

void Shrinker::Stop() {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  wake_.notify_all();
  room_.notify_all();
  if (thread_.joinable()) {
    std::thread thread = std::move(thread_);
    lock.unlock();
    thread.join();
    lock.lock();
  }
  wake_.wait(lock, [this] { return free_batches_.size() == kBatches; });
}

void Shrinker::AfterAllocation() {
  const std::uint64_t bytes = tier_->pool_->entry_bytes();
  if (bytes <= accept_bytes_) return;
  if (bytes <= high_bytes_ && tier_->pool_->free_slabs() >= reserve_slabs_) return;
  if (wake_wanted_.load(std::memory_order_relaxed) || wake_wanted_.exchange(true)) return;
  std::lock_guard lock(mutex_);
  wake_.notify_one();
}

Shrinker::Waiter::Waiter(Shrinker* shrinker) : shrinker_(shrinker) {
  std::lock_guard lock(shrinker_->mutex_);
  const auto now = Clock::now();
  if (now - shrinker_->last_full_ > kShortageGap) shrinker_->full_since_ = now;
  shrinker_->last_full_ = now;
  seen_progress_ = shrinker_->progress_;
}

bool Shrinker::Waiter::WaitForRoom() {
  std::unique_lock lock(shrinker_->mutex_);
  if (shrinker_->progress_ == seen_progress_) {
    ++shrinker_->waiting_;
    shrinker_->wake_wanted_.store(true);
    shrinker_->wake_.notify_one();
  }
  while (shrinker_->progress_ == seen_progress_ && !shrinker_->stopping_) {
    const auto deadline = std::max(shrinker_->full_since_, shrinker_->last_progress_) +
                          shrinker_->tier_->config_.store_wait;
    if (Clock::now() >= deadline) {
      --shrinker_->waiting_;
      return false;
    }
    shrinker_->room_.wait_until(lock, deadline);
  }
  seen_progress_ = shrinker_->progress_;
  return !shrinker_->stopping_;
}

void Shrinker::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    wake_wanted_.store(false);
    lock.unlock();
    Step step = ShrinkStep();
    const Step manual = ManualStep();
    if (manual == Step::kWorked || step == Step::kNothingToDo) step = manual;
    const bool discards = discards_pending_.load();
    if (discards && step != Step::kWorked) FlushDiscards();
    lock.lock();
    if (stopping_ || step == Step::kWorked || wake_wanted_.load()) continue;
    if (step == Step::kBlocked) {
      // A finished batch wakes us, and so does a new waiter; a server that came back does not.
      wake_.wait_for(lock, std::max(kBackoffMin, backoff_));
    } else if (discards_pending_.load()) {
      wake_.wait_for(lock, kDiscardDelay);
    } else {
      wake_.wait(lock);
    }
  }
}

std::uint64_t Shrinker::PendingEntryBytes() const {
  const std::uint64_t all = tier_->pool_->entry_bytes();
  const std::uint64_t leaving = in_flight_bytes_.load();
  return all > leaving ? all - leaving : 0;
}

Shrinker::Step Shrinker::ShrinkStep() {
  bool waiters;
  {
    std::lock_guard lock(mutex_);
    waiters = waiting_ > 0;
  }
  const std::uint64_t bytes = PendingEntryBytes();
  const bool short_of_slabs = tier_->pool_->free_slabs() < reserve_slabs_;
  if (waiters || bytes > high_bytes_ || (bytes > accept_bytes_ && short_of_slabs)) {
    shrinking_.store(true, std::memory_order_relaxed);
  }
  if (!shrinking()) return Step::kNothingToDo;
  if (short_of_slabs && tier_->CompactOneSlab(&drain_)) {
    ReportProgress();
    return Step::kWorked;
  }
  // A store that waits although the entries are under the threshold (no slab could be emptied for
  // its size) gets a little more at a time, not all that could be in flight.
  Step step = Step::kNothingToDo;
  if (bytes > accept_bytes_) {
    step = WriteBatch(Cause::kLimit, PutBatch::kPagesMax, bytes - accept_bytes_);
  } else if (waiters) {
    step = in_flight_bytes_.load() > 0
               ? Step::kBlocked
               : WriteBatch(Cause::kLimit, PutBatch::kPagesMax, 4 * Pool::kSlabBytes);
  }
  if (step == Step::kNothingToDo) shrinking_.store(false, std::memory_order_relaxed);
  return step;
}

Shrinker::Step Shrinker::ManualStep() {
  std::size_t pages = 0;
  {
    std::lock_guard lock(mutex_);
    if (manual_.finished) return Step::kNothingToDo;
    const std::uint64_t target = (manual_.target_bytes + kPageBytes - 1) / kPageBytes;
    const std::uint64_t started = manual_.written_bytes / kPageBytes + manual_sent_pages_;
    if (started >= target) return Step::kBlocked;
    pages =
        static_cast<std::size_t>(std::min<std::uint64_t>(target - started, PutBatch::kPagesMax));
  }
  const Step step = WriteBatch(Cause::kManual, pages, ~std::uint64_t{0});
  std::lock_guard lock(mutex_);
  if (step == Step::kNothingToDo && manual_sent_pages_ == 0 && !manual_.finished) {
    EndManual("no more entries to write back");
  }
  return step == Step::kNothingToDo ? Step::kBlocked : step;
}

// Sends one batch, which frees about bytes_max of the pool at the most. kNothingToDo: there is no
// entry to send.
Shrinker::Step Shrinker::WriteBatch(Cause cause, std::size_t pages_max, std::uint64_t bytes_max) {
  if (!tier_->remote_->Writable()) return Step::kBlocked;
  Batch* batch;
  {
    std::lock_guard lock(mutex_);
    if (free_batches_.empty() || stopping_ || Clock::now() < retry_at_) return Step::kBlocked;
    batch = free_batches_.back();
    free_batches_.pop_back();
  }
  batch->cause = cause;
  if (!Collect(batch, pages_max, bytes_max)) {
    std::lock_guard lock(mutex_);
    free_batches_.push_back(batch);
    return free_batches_.size() == kBatches ? Step::kNothingToDo : Step::kBlocked;
  }
  tier_->Count(cause == Cause::kManual ? Counter::writeback_started_manual
                                       : Counter::writeback_started_limit,
               batch->count);
  in_flight_bytes_.fetch_add(batch->entry_bytes);
  if (cause == Cause::kManual) {
    std::lock_guard lock(mutex_);
    manual_sent_pages_ += batch->count;
  }
  tier_->remote_->Put(batch);
  return Step::kWorked;
}

// Fills the batch with the coldest entries that were not read since they were stored or last
// spared.
bool Shrinker::Collect(Batch* batch, std::size_t pages_max, std::uint64_t bytes_max) {
  batch->count = 0;
  batch->entry_bytes = 0;
  // Once around the LRU spares nobody twice; some more tries for entries that change meanwhile.
  std::uint64_t tries = 2 * tier_->lru_.size() + pages_max;
  while (batch->count < pages_max && batch->entry_bytes < bytes_max && tries-- > 0) {
    const Lru::Candidate candidate = tier_->lru_.Coldest();
    if (candidate.entry == kNoEntry) break;
    Isolate(batch, candidate.slot, candidate.entry);
  }
  return batch->count > 0;
}

// Takes one entry into the batch. False: spared, or it changed since it was picked.
bool Shrinker::Isolate(Batch* batch, SlotIndex slot, EntryRef entry) {
  if (slot == kNoSlot) return false;
  const auto lock = tier_->table_->Lock(slot);
  SlotRecord record = tier_->table_->Get(slot);
  if (record.state != SlotState::kLocal || record.object.entry != entry) return false;
  if (record.referenced) {
    record.referenced = 0;
    tier_->table_->Set(slot, record);
    tier_->lru_.MoveToHot(entry);
    tier_->Count(Counter::second_chances);
    return false;
  }
  std::byte* copy = batch->arena + batch->count * kPageBytes;
  std::memcpy(copy, tier_->pool_->Bytes(entry), record.length);
  batch->pages[batch->count++] = {slot,
                                  record.version,
                                  static_cast<Codec>(record.codec),
                                  record.object.checksum,
                                  tier_->pool_->At(entry)->stored_unix_s,
                                  {copy, record.length}};
  batch->entry_bytes += Pool::EntryBytes(record.length);
  tier_->lru_.Remove(entry);
  tier_->CountState(record, -1);
  record.state = SlotState::kWriting;
  tier_->CountState(record, +1);
  tier_->table_->Set(slot, record);
  return true;
}

// On a thread of the RemoteStore.
void Shrinker::FinishBatch(Batch* batch) {
  std::uint64_t acked = 0;
  std::uint64_t acked_bytes = 0;
  bool failed = false;
  bool full = false;
  for (std::size_t i = 0; i < batch->count; ++i) {
    if (FinishPage(batch->pages[i], batch->results[i])) {
      ++acked;
      acked_bytes += batch->pages[i].bytes.size();
    }
    failed |= batch->results[i] != PutResult::kAcked;
    full |= batch->results[i] == PutResult::kServerFull;
  }
  tier_->Count(Counter::writeback_acked, acked);
  tier_->Count(Counter::writeback_acked_bytes, acked_bytes);
  in_flight_bytes_.fetch_sub(batch->entry_bytes);
  if (acked > 0) ReportProgress();

  std::lock_guard lock(mutex_);
  if (failed) {
    backoff_ = std::clamp(backoff_ * 2, kBackoffMin, kBackoffMax);
    retry_at_ = Clock::now() + backoff_;
  } else {
    backoff_ = milliseconds{0};
  }
  if (batch->cause == Cause::kManual) {
    manual_sent_pages_ -= batch->count;
    manual_.written_bytes += acked * kPageBytes;
    manual_.sent_bytes += acked_bytes;
    if (manual_.finished) {
      // Cancelled meanwhile.
    } else if (manual_.written_bytes >= manual_.target_bytes) {
      EndManual("");
    } else if (full && acked == 0) {
      EndManual("the memory servers are full");
    }
  }
  free_batches_.push_back(batch);
  wake_wanted_.store(true);
  wake_.notify_all();
}

// True if the page is the server's now. Whatever else happened, its entry stays in the pool.
bool Shrinker::FinishPage(const PageObject& page, PutResult result) {
  const auto lock = tier_->table_->Lock(page.slot);
  SlotRecord record = tier_->table_->Get(page.slot);
  if (record.state != SlotState::kWriting || record.version != page.version) {
    tier_->Count(Counter::writeback_raced);
    if (result == PutResult::kAcked || result == PutResult::kUnavailable) DiscardLater(page.slot);
    return false;
  }
  const EntryRef entry = record.object.entry;
  tier_->CountState(record, -1);
  record.state = result == PutResult::kAcked ? SlotState::kRemote : SlotState::kLocal;
  tier_->CountState(record, +1);
  if (result == PutResult::kAcked) {
    record.object.entry = kNoEntry;
    record.referenced = 0;
  }
  tier_->table_->Set(page.slot, record);
  switch (result) {
    case PutResult::kAcked:
      tier_->pool_->Free(entry);
      return true;
    case PutResult::kServerFull:
      tier_->Count(Counter::writeback_failed_full);
      tier_->lru_.AddCold(entry);
      return false;
    case PutResult::kUnavailable:
      tier_->Count(Counter::writeback_failed_unavailable);
      tier_->lru_.AddCold(entry);
      return false;
    case PutResult::kSuperseded:
    case PutResult::kRejected:
      // To the hot end: one page that a server will not have must not block all others.
      tier_->Count(Counter::writeback_failed_rejected);
      tier_->lru_.AddHot(entry);
      return false;
  }
  return false;
}

void Shrinker::ReportProgress() {
  std::lock_guard lock(mutex_);
  ++progress_;
  waiting_ = 0;  // all are woken; who finds no room even now waits anew
  last_progress_ = Clock::now();
  room_.notify_all();
}

void Shrinker::DiscardLater(SlotIndex slot) {
  discards_[slot / 64].fetch_or(std::uint64_t{1} << slot % 64);
  if (discards_pending_.exchange(true)) return;
  std::lock_guard lock(mutex_);
  wake_.notify_one();
}

void Shrinker::FlushDiscards() {
  discards_pending_.store(false);
  std::vector<DiscardItem> items;
  items.reserve(kDiscardBatch);
  bool accepted = true;
  const auto send = [&] {
    if (items.empty()) return;
    accepted = accepted && tier_->remote_->Discard(items);
    if (accepted) {
      tier_->Count(Counter::discards_sent, items.size());
    } else {
      for (const DiscardItem& item : items) DiscardLater(item.slot);
    }
    items.clear();
  };
  for (std::size_t word = 0; word < discards_.size() && accepted; ++word) {
    if (discards_[word].load(std::memory_order_relaxed) == 0) continue;
    std::uint64_t bits = discards_[word].exchange(0);
    while (bits != 0) {
      const auto slot =
          static_cast<SlotIndex>(word * 64 + static_cast<std::size_t>(__builtin_ctzll(bits)));
      bits &= bits - 1;
      const auto lock = tier_->table_->Lock(slot);
      const SlotRecord& record = tier_->table_->Get(slot);
      // What is remote now was put after the stale page, in its place.
      if (record.state == SlotState::kRemote) continue;
      // Any remote page is older than the record: a page in flight has the record's version.
      items.push_back({slot, record.version - 1});
    }
    if (items.size() + 64 > kDiscardBatch) send();
  }
  send();
  // Words after a refusal were not looked at.
  if (!accepted) discards_pending_.store(true);
}

bool Shrinker::StartManual(std::uint64_t bytes) {
  std::lock_guard lock(mutex_);
  if (!manual_.finished || manual_sent_pages_ > 0) return false;
  manual_ = {bytes, 0, 0, false, ""};
  wake_wanted_.store(true);
  wake_.notify_one();
  return true;
}

void Shrinker::CancelManual() {
  std::lock_guard lock(mutex_);
  if (!manual_.finished) EndManual("cancelled");
}

// Called with mutex_ held.
void Shrinker::EndManual(const char* reason) {
  manual_.finished = true;
  manual_.stopped_because = reason;
}

Tier::ManualWriteback Shrinker::ManualProgress() const {
  std::lock_guard lock(mutex_);
  return manual_;
}

}  // namespace farswap::tier
