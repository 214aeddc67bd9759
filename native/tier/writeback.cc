// How the shrinker moves entries: collecting the coldest into a batch, sending it, and what becomes
// of each page when the servers have answered. When it does, and how many, is in shrinker.cc.
#include <algorithm>
#include <cstring>

#include "tier/codec.h"
#include "tier/tier_impl.h"

namespace farswap::tier {

// Sends one batch. kNothingToDo: there is no entry to send.
Shrinker::Step Shrinker::WriteBatch(const Request& request) {
  if (!tier_->remote_->Writable()) return Step::kBlocked;
  Batch* batch;
  {
    std::lock_guard lock(mutex_);
    if (free_batches_.empty() || stopping_ || Clock::now() < retry_at_) return Step::kBlocked;
    batch = free_batches_.back();
    free_batches_.pop_back();
  }
  batch->cause = request.cause;
  if (!Collect(batch, request)) {
    std::lock_guard lock(mutex_);
    free_batches_.push_back(batch);
    return free_batches_.size() == kBatches ? Step::kNothingToDo : Step::kBlocked;
  }
  in_flight_bytes_.fetch_add(batch->entry_bytes);
  if (request.cause == Cause::kManual) {
    std::lock_guard lock(mutex_);
    manual_sent_pages_ += batch->count;
  }
  RecompressBatch(batch);
  tier_->remote_->Put(batch);
  return Step::kWorked;
}

bool Shrinker::IsSource(GroupIndex index, const Request& request) const {
  const Groups& groups = Owner();
  if (groups.At(index).lru.size() == 0 || !groups.MayWriteBack(index)) return false;
  return request.descendants ? groups.IsWithin(index, request.group) : index == request.group;
}

void Shrinker::FindSources(const Request& request) {
  sources_.clear();
  source_entries_ = 0;
  for (std::size_t i = 0; i < Owner().end(); ++i) {
    const auto index = static_cast<GroupIndex>(i);
    if (!IsSource(index, request)) continue;
    const std::uint64_t entries = Owner().At(index).lru.size();
    sources_.push_back({index, entries});
    source_entries_ += entries;
  }
  // Round robin: begin behind the group that was last.
  const auto next = std::find_if(sources_.begin(), sources_.end(), [this](const Source& source) {
    return source.group > last_source_;
  });
  std::rotate(sources_.begin(), next, sources_.end());
}

// About how many entries the request wants, by their mean size.
std::uint64_t Shrinker::EntriesWanted(const Request& request) const {
  std::uint64_t entries = 0;
  for (std::size_t i = 0; i < Owner().end(); ++i) {
    entries += Owner().At(static_cast<GroupIndex>(i)).lru.size();
  }
  const std::uint64_t mean_bytes =
      tier_->pool_->entry_bytes() / std::max<std::uint64_t>(entries, 1);
  const std::uint64_t by_bytes = request.bytes_max / std::max<std::uint64_t>(mean_bytes, 1) + 1;
  return std::min<std::uint64_t>(request.pages_max, by_bytes);
}

// Fills the batch with the coldest entries that were not read since they were stored or last
// spared: from each group in proportion to its entries; then, if some had fewer to give, more from
// the others. What a group owes beyond whole entries is carried over, so that many small batches
// are as fair as a large one.
bool Shrinker::Collect(Batch* batch, const Request& request) {
  batch->count = 0;
  batch->entry_bytes = 0;
  FindSources(request);
  if (sources_.empty()) return false;
  const auto full = [&] {
    return batch->count >= request.pages_max || batch->entry_bytes >= request.bytes_max;
  };
  const std::uint64_t wanted = EntriesWanted(request) << kDebtBits;
  for (const Source& source : sources_) {
    std::uint64_t& debt = debts_[source.group];
    debt = std::min(debt + wanted * source.entries / source_entries_, kDebtMax);
    if (full()) continue;
    const std::size_t before = batch->count;
    TakeShare(batch, request, source.group, debt >> kDebtBits);
    debt -= std::min(debt, std::uint64_t{batch->count - before} << kDebtBits);
    last_source_ = source.group;
  }
  for (const Source& source : sources_) {
    if (full() || batch->count >= wanted >> kDebtBits) break;
    TakeShare(batch, request, source.group, (wanted >> kDebtBits) - batch->count);
  }
  return batch->count > 0;
}

void Shrinker::TakeShare(Batch* batch, const Request& request, GroupIndex group,
                         std::size_t pages) {
  // Once around the LRU spares nobody twice; some more tries for entries that change meanwhile.
  std::uint64_t tries = 2 * Owner().At(group).lru.size() + pages;
  const std::size_t enough = std::min(batch->count + pages, request.pages_max);
  while (batch->count < enough && batch->entry_bytes < request.bytes_max && tries-- > 0) {
    const Lru::Candidate candidate = Owner().Lock(group)->lru.Coldest();
    if (candidate.entry == kNoEntry) return;
    if (Isolate(batch, request, candidate.slot, candidate.entry) == Taken::kNoMore) return;
  }
}

Counter Shrinker::StartedCounter(Cause cause) {
  switch (cause) {
    case Cause::kLimit:
      return Counter::writeback_started_limit;
    case Cause::kGroupLimit:
      return Counter::writeback_started_cgroup_limit;
    case Cause::kShrinker:
      return Counter::writeback_started_shrinker;
    case Cause::kAge:
      return Counter::writeback_started_age;
    case Cause::kManual:
      return Counter::writeback_started_manual;
  }
  return Counter::writeback_started_limit;
}

// Takes one entry into the batch. kNotThis: spared, or it changed since it was picked. kNoMore:
// those behind it are not to be taken either.
Shrinker::Taken Shrinker::Isolate(Batch* batch, const Request& request, SlotIndex slot,
                                  EntryRef entry) {
  if (slot == kNoSlot) return Taken::kNotThis;
  const auto lock = tier_->table_->Lock(slot);
  SlotRecord record = tier_->table_->Get(slot);
  if (record.state != SlotState::kLocal || record.object.entry != entry) return Taken::kNotThis;
  // The group may have gone into its parent, been configured, or come to its quota meanwhile.
  const GroupIndex index = Owner().Resolve(record.group);
  if (!IsSource(index, request)) return Taken::kNoMore;
  const Entry& header = *tier_->pool_->At(entry);
  const std::uint32_t now = tier_->config_.unix_seconds();
  const std::uint32_t age_s = header.AgeSeconds(now);
  if (request.older_than_s > 0 && age_s < request.older_than_s) return Taken::kNoMore;
  const auto group = Owner().Lock(index);
  if (record.referenced && tier_->config_.second_chance) {
    record.referenced = 0;
    tier_->table_->Set(slot, record);
    group->lru.MoveToHot(entry);
    group->Count(Counter::second_chances);
    return Taken::kNotThis;
  }
  const std::size_t length = header.object_bytes();
  std::byte* copy = batch->arena + batch->count * kPageBytes;
  std::memcpy(copy, tier_->pool_->Bytes(entry), length);
  batch->pages[batch->count++] = {
      slot,        record.version, static_cast<Codec>(record.codec), record.object.checksum,
      now - age_s, {copy, length}};
  const std::size_t bytes = tier_->pool_->EntryBytesOf(entry);
  batch->entry_bytes += bytes;
  group->lru.Remove(entry);
  Owner().Add(group, {0, static_cast<std::int64_t>(bytes), 1});
  group->Count(StartedCounter(request.cause));
  tier_->CountState(record, -1);
  record.state = SlotState::kWriting;
  tier_->CountState(record, +1);
  tier_->table_->Set(slot, record);
  return Taken::kYes;
}

// The entries in the pool stay as they are, until the servers have what is sent.
void Shrinker::RecompressBatch(Batch* batch) {
  const int level = recompress_level_.load(std::memory_order_relaxed);
  if (level == 0 || !may_recompress_) return;
  std::uint64_t pages = 0;
  std::uint64_t saved = 0;
  for (std::size_t i = 0; i < batch->count; ++i) {
    PageObject& page = batch->pages[i];
    const auto smaller = Recompress(page.codec, page.bytes, level);
    if (!smaller) continue;
    ++pages;
    saved += page.bytes.size() - smaller->bytes.size();
    std::byte* copy = batch->arena + i * kPageBytes;
    std::memcpy(copy, smaller->bytes.data(), smaller->bytes.size());
    page.codec = smaller->codec;
    page.bytes = {copy, smaller->bytes.size()};
    page.checksum = PageChecksum(page.slot, page.codec, page.bytes);
  }
  Group& root = Owner().At(kRootGroup);
  root.Count(Counter::recompressed, pages);
  root.Count(Counter::recompressed_saved_bytes, saved);
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
  in_flight_bytes_.fetch_sub(batch->entry_bytes);
  if (acked > 0) WakeWaiters();

  std::lock_guard lock(mutex_);
  if (failed) {
    backoff_ = std::clamp(backoff_ * 2, kBackoffMin, kBackoffMax);
    retry_at_ = Clock::now() + backoff_;
  } else {
    backoff_ = std::chrono::milliseconds{0};
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
  const GroupIndex index = Owner().Resolve(record.group);
  if (record.state != SlotState::kWriting || record.version != page.version) {
    Owner().At(index).Count(Counter::writeback_raced);
    if (result != PutResult::kAcked && result != PutResult::kUnavailable) return false;
    if (record.state == SlotState::kRemote) return false;  // sent since, in its place
    record.stale_remote = 1;
    tier_->table_->Set(page.slot, record);
    DiscardLater(page.slot);
    return false;
  }
  const EntryRef entry = record.object.entry;
  const bool acked = result == PutResult::kAcked;
  const auto bytes = static_cast<std::int64_t>(tier_->pool_->EntryBytesOf(entry));
  tier_->CountState(record, -1);
  record.state = acked ? SlotState::kRemote : SlotState::kLocal;
  if (acked) {
    record.codec = static_cast<std::uint8_t>(page.codec) & 3;
    record.away = {static_cast<std::uint32_t>(page.bytes.size()), 0};
    record.referenced = 0;
    record.stale_remote = 0;
  }
  tier_->CountState(record, +1);
  tier_->table_->Set(page.slot, record);
  const auto group = Owner().Lock(index);
  if (acked) {
    Owner().Add(group, {-bytes, -bytes, 0});
    tier_->pool_->Free(entry);
    group->Count(Counter::written_back_pages);
    group->Count(Counter::written_back_bytes, page.bytes.size());
    ReportProgress(index);
    return true;
  }
  Owner().Add(group, {0, -bytes, -1});
  if (result == PutResult::kServerFull || result == PutResult::kUnavailable) {
    group->Count(result == PutResult::kServerFull ? Counter::writeback_failed_full
                                                  : Counter::writeback_failed_unavailable);
    group->lru.AddCold(entry);
  } else {
    // To the hot end: one page that a server will not have must not block all others.
    group->Count(Counter::writeback_failed_rejected);
    group->lru.AddHot(entry);
  }
  return false;
}

}  // namespace farswap::tier
