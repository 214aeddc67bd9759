// How the shrinker moves entries: collecting the coldest into a batch, sending it, and what becomes
// of each page when the servers have answered. When it does, and how many, is in shrinker.cc.
#include <algorithm>
#include <cstring>

#include "tier/codec.h"
#include "tier/shrinker.h"

namespace farswap::tier {

// Sends one batch. kNothingToDo: there is no entry to send.
Shrinker::Step Shrinker::WriteBatch(const Request& request) {
  if (!remote_.Writable()) return Step::kBlocked;
  Batch* batch;
  {
    std::lock_guard lock(mutex_);
    if (free_batches_.empty() || stopping_ || Clock::now() < retry_at_) return Step::kBlocked;
    batch = free_batches_.back();
    free_batches_.pop_back();
  }
  batch->cause = request.cause;
  Collect(batch, request);
  if (batch->dropped_bytes > 0) stores_.RoomMade();
  if (batch->count == 0) {
    std::lock_guard lock(mutex_);
    free_batches_.push_back(batch);
    if (batch->dropped_bytes > 0 || batch->spared > 0) return Step::kWorked;
    return free_batches_.size() == kBatches ? Step::kNothingToDo : Step::kBlocked;
  }
  in_flight_bytes_.fetch_add(batch->entry_bytes);
  if (request.cause == Cause::kManual) {
    std::lock_guard lock(mutex_);
    manual_sent_pages_ += batch->count;
  }
  PrepareBatch(batch);
  remote_.Put(batch);
  return Step::kWorked;
}

bool Shrinker::IsSource(GroupIndex index, const Request& request) const {
  const Group& group = groups_.At(index);
  const bool any_clean = group.pages_by_state[static_cast<std::size_t>(SlotState::kClean)] > 0;
  if (group.lru.size() == 0 || (!any_clean && !groups_.MayWriteBack(index))) return false;
  return request.descendants ? groups_.IsWithin(index, request.group) : index == request.group;
}

void Shrinker::FindSources(const Request& request) {
  sources_.clear();
  source_entries_ = 0;
  for (std::size_t i = 0; i < groups_.end(); ++i) {
    const auto index = static_cast<GroupIndex>(i);
    if (!IsSource(index, request)) continue;
    const std::uint64_t entries = groups_.At(index).lru.size();
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
  for (std::size_t i = 0; i < groups_.end(); ++i) {
    entries += groups_.At(static_cast<GroupIndex>(i)).lru.size();
  }
  const std::uint64_t mean_bytes =
      pages_.pool().entry_bytes() / std::max<std::uint64_t>(entries, 1);
  const std::uint64_t by_bytes = request.bytes_max / std::max<std::uint64_t>(mean_bytes, 1) + 1;
  return std::min<std::uint64_t>(request.pages_max, by_bytes);
}

// Fills the batch with the coldest entries that were not read since they were stored or last
// spared: from each group in proportion to its entries; then, if some had fewer to give, more from
// the others. What a group owes beyond whole entries is carried over, so that many small batches
// are as fair as a large one.
void Shrinker::Collect(Batch* batch, const Request& request) {
  batch->count = 0;
  batch->entry_bytes = 0;
  batch->dropped_bytes = 0;
  batch->run_count = 0;
  batch->spared = 0;
  FindSources(request);
  if (sources_.empty()) return;
  const auto full = [&] {
    return batch->looked_at() >= request.pages_max || batch->freed_bytes() >= request.bytes_max;
  };
  const std::uint64_t wanted = EntriesWanted(request) << kDeficitBits;
  for (const Source& source : sources_) {
    std::uint64_t& deficit = deficits_[source.group];
    deficit = std::min(deficit + wanted * source.entries / source_entries_, kDeficitMax);
    if (full()) continue;
    const std::size_t before = batch->looked_at();
    TakeShare(batch, request, source.group, deficit >> kDeficitBits);
    deficit -= std::min(deficit, std::uint64_t{batch->looked_at() - before} << kDeficitBits);
    last_source_ = source.group;
  }
  for (const Source& source : sources_) {
    if (full() || batch->looked_at() >= wanted >> kDeficitBits) break;
    TakeShare(batch, request, source.group, (wanted >> kDeficitBits) - batch->looked_at());
  }
}

void Shrinker::TakeShare(Batch* batch, const Request& request, GroupIndex group,
                         std::size_t pages) {
  // Once around the LRU spares nobody twice; some more tries for entries that change meanwhile.
  std::uint64_t tries = 2 * groups_.At(group).lru.size() + pages;
  const std::size_t enough = std::min(batch->looked_at() + pages, request.pages_max);
  while (batch->looked_at() < enough && batch->freed_bytes() < request.bytes_max && tries-- > 0) {
    const Lru::Candidate candidate = groups_.Lock(group)->lru.Coldest();
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
  const auto lock = pages_.Lock(slot);
  const SlotRecord& record = pages_.Get(slot);
  if (!record.OnLru() || record.object.entry != entry) return Taken::kNotThis;
  // The group may have gone into its parent, been configured, or come to its quota meanwhile.
  const GroupIndex index = groups_.Resolve(record.group);
  if (!IsSource(index, request)) return Taken::kNoMore;
  const std::uint32_t age_s = pages_.pool().At(entry)->AgeSeconds(config_.boot_seconds());
  if (request.older_than_s > 0 && age_s < request.older_than_s) return Taken::kNoMore;
  if (record.state == SlotState::kClean) {
    // No second chance: who read it has it.
    batch->dropped_bytes += pages_.DropClean(slot);
    ReportProgress(index);
    return Taken::kYes;
  }
  if (!groups_.MayWriteBack(index)) return Taken::kNoMore;
  if (record.referenced && config_.second_chance) {
    pages_.Spare(slot, Counter::second_chances);
    if (request.spares_count) ++batch->spared;
    return Taken::kNotThis;
  }
  if (!pages_.Intact(slot)) {
    // To the hot end, as what a server refuses: it must not block all others.
    pages_.Spare(slot, Counter::fail_checksum);
    return Taken::kNotThis;
  }
  if (packing_.load(std::memory_order_acquire) && !pages_.AnyInBundle(slot)) {
    TakeWithNeighbours(batch, request, slot);
  } else {
    Take(batch, request, slot);
  }
  return Taken::kYes;
}

// Copies a local entry, which is intact, into the batch. The slot's lock is held.
void Shrinker::Take(Batch* batch, const Request& request, SlotIndex slot) {
  const std::size_t index = batch->count++;
  batch->entry_bytes +=
      pages_.BeginWriteback(slot, StartedCounter(request.cause), config_.boot_seconds(),
                            batch->arena + index * kPageBytes, &batch->pages[index]);
}

// Packs what can be packed and compresses the rest anew, as far as that is switched on. The entries
// in the pool stay as they are, until the servers have what is sent.
void Shrinker::PrepareBatch(Batch* batch) {
  batch->page_count = batch->count;
  batch->count = 0;
  std::size_t run = 0;
  for (std::size_t next = 0; next < batch->page_count;) {
    if (run < batch->run_count && batch->runs[run].first == next) {
      PageObject bundle;
      const Batch::Run& neighbours = batch->runs[run++];
      if (PackRun(batch, neighbours, &bundle)) {
        batch->pages[batch->count++] = bundle;
        next += neighbours.count;
        continue;
      }
    }
    RecompressPage(batch, next);
    batch->pages[batch->count++] = batch->pages[next++];
  }
}

void Shrinker::RecompressPage(Batch* batch, std::size_t index) {
  const int level = recompress_level_.load(std::memory_order_relaxed);
  if (level == 0 || !may_recompress_) return;
  PageObject& page = batch->pages[index];
  const auto smaller = Recompress(page.codec, page.bytes, level);
  if (!smaller) return;
  Group& root = groups_.At(kRootGroup);
  root.Count(Counter::recompressed);
  root.Count(Counter::recompressed_saved_bytes, page.bytes.size() - smaller->bytes.size());
  std::byte* copy = batch->arena + index * kPageBytes;
  std::memcpy(copy, smaller->bytes.data(), smaller->bytes.size());
  page.codec = smaller->codec;
  page.bytes = {copy, smaller->bytes.size()};
  page.checksum = PageChecksum(page.slot, page.codec, page.bytes);
}

// On a thread of the RemoteStore.
void Shrinker::FinishBatch(Batch* batch) {
  const Groups::Time now = config_.now();
  std::uint64_t acked = 0;
  std::uint64_t acked_bytes = 0;
  bool failed = false;
  bool full = false;
  for (std::size_t i = 0; i < batch->count; ++i) {
    const PageObject& object = batch->pages[i];
    const PutResult result = batch->results[i];
    std::size_t pages = 0;
    if (IsBundleKey(object.slot)) {
      pages = pages_.EndBundle(object, result, now);
    } else if (pages_.EndWriteback(object, result, now)) {
      pages = 1;
    }
    acked += pages;
    if (pages > 0) acked_bytes += object.bytes.size();
    failed |= result != PutResult::kAcked;
    full |= result == PutResult::kServerFull;
  }
  in_flight_bytes_.fetch_sub(batch->entry_bytes);
  if (acked > 0) stores_.RoomMade();

  std::lock_guard lock(mutex_);
  if (failed) {
    backoff_ = std::clamp(backoff_ * 2, kBackoffMin, kBackoffMax);
    retry_at_ = Clock::now() + backoff_;
  } else {
    backoff_ = std::chrono::milliseconds{0};
  }
  if (batch->cause == Cause::kManual) {
    manual_sent_pages_ -= batch->page_count;
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

}  // namespace farswap::tier
