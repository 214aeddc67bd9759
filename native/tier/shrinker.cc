#include "tier/shrinker.h"

#include <algorithm>
#include <utility>

#include "base/thread.h"
#include "tier/codec.h"

namespace farswap::tier {
namespace {

// Stale objects are collected this long, so that they are discarded in batches.
constexpr std::chrono::milliseconds kDiscardDelay{100};

}  // namespace

Shrinker::Shrinker(const TierConfig& config, Pages* pages, StaleObjects* stale, StoreQueue* stores,
                   Writeback* writeback, ManualJob* manual)
    : config_(config),
      pages_(*pages),
      groups_(pages->groups()),
      stale_(*stale),
      stores_(*stores),
      writeback_(*writeback),
      manual_(*manual),
      deficits_(Groups::kGroupsMax),
      group_shrinking_(Groups::kGroupsMax) {
  sources_.reserve(Groups::kGroupsMax);
  reparenting_.reserve(Groups::kGroupsMax);
  stores_.WaitFor(this);
  writeback_.ReportTo(this);
  stale_.OnFirstMark([this] {
    std::lock_guard lock(mutex_);
    wake_.notify_one();
  });
  thread_ = StartThread("fs-shrinker", [this] { Run(); });
}

void Shrinker::Stop() {
  std::thread thread;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
    std::swap(thread, thread_);
  }
  if (thread.joinable()) thread.join();
  writeback_.WaitForBatches();
}

void Shrinker::AfterAllocation(GroupIndex group) {
  const std::uint32_t high_percent = (100 + pages_.accept_threshold_percent()) / 2;
  if (OverHighMark(pages_.pool().entry_bytes()) ||
      (groups_.any_limited() && groups_.OverLimit(group, 0, high_percent) != Groups::kNoGroup)) {
    Wake();
  }
}

void Shrinker::Wake() {
  if (wake_wanted_.load() || wake_wanted_.exchange(true)) return;
  std::lock_guard lock(mutex_);
  wake_.notify_one();
}

void Shrinker::OnAnswered(const Writeback::Answer& answer) {
  if (answer.acked_pages > 0) stores_.RoomMade();
  if (answer.cause == Counter::writeback_started_manual) manual_.OnAnswered(answer);
  Wake();
}

void Shrinker::Run() {
  // A thread without that memory gets it later, or sends pages as they are.
  static_cast<void>(PrepareThreadForPages());
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    wake_wanted_.store(false);
    lock.unlock();
    const WorkResult result = WorkOnce();
    if (result != WorkResult::kWorked && stale_.any()) writeback_.SendDiscards();
    const auto retry_delay = writeback_.retry_delay();
    lock.lock();
    if (stopping_ || result == WorkResult::kWorked || wake_wanted_.load()) continue;
    if (result == WorkResult::kBlocked) {
      // An answer wakes the thread, and so does a new waiter; a server that came back does not.
      wake_.wait_for(lock, retry_delay);
    } else if (stale_.any()) {
      wake_.wait_for(lock, kDiscardDelay);
    } else {
      wake_.wait(lock);
    }
  }
}

WorkResult Shrinker::WorkOnce() {
  bool blocked = false;
  for (const auto work :
       {&Shrinker::ShrinkPool, &Shrinker::ShrinkLimitedGroups, &Shrinker::DoManualJob,
        &Shrinker::ReparentSlots, &Shrinker::ShrinkProactively}) {
    const WorkResult result = (this->*work)();
    if (result == WorkResult::kWorked) return result;
    blocked |= result == WorkResult::kBlocked;
  }
  return blocked ? WorkResult::kBlocked : WorkResult::kNothingToDo;
}

// --- At the pool's limit ------------------------------------------------------------------------

std::uint32_t Shrinker::ReserveSlabs() const {
  return std::max(1u, pages_.pool().slab_limit() / 100);
}

bool Shrinker::OverHighMark(std::uint64_t bytes) const {
  const Pool& pool = pages_.pool();
  const std::uint64_t limit = pool.capacity_bytes();
  return bytes > HighBytes(limit) ||
         (bytes > AcceptBytes(limit) && pool.free_slabs() < ReserveSlabs());
}

WorkResult Shrinker::ShrinkPool() {
  const bool waiters = stores_.WantsRoom(kRootGroup);
  const Pool& pool = pages_.pool();
  const std::uint64_t accept = AcceptBytes(pool.capacity_bytes());
  const std::uint64_t all_bytes = pool.entry_bytes();
  const std::uint64_t in_flight_bytes = writeback_.in_flight_bytes();
  const std::uint64_t bytes = all_bytes - std::min(all_bytes, in_flight_bytes);
  if (waiters || pool.used_slabs() > pool.slab_limit() || OverHighMark(bytes)) {
    shrinking_.store(true, std::memory_order_relaxed);
  }
  if (!shrinking()) return WorkResult::kNothingToDo;
  if (pool.free_slabs() < ReserveSlabs() && CompactSlab()) return WorkResult::kWorked;
  // A store that waits although the entries are under the threshold (no slab could be emptied for
  // its size) gets a little more at a time, not all that could be in flight.
  WorkResult result = WorkResult::kNothingToDo;
  if (bytes > accept) {
    result = WriteBack({.bytes_max = bytes - accept});
  } else if (waiters) {
    result =
        in_flight_bytes > 0 ? WorkResult::kBlocked : WriteBack({.bytes_max = 4 * Pool::kSlabBytes});
  }
  if (result == WorkResult::kNothingToDo) shrinking_.store(false, std::memory_order_relaxed);
  return result;
}

// Empties a sparse slab into others of its class, so that it can serve another class. False: no
// class has that much room to spare.
bool Shrinker::CompactSlab() {
  Pool& pool = pages_.pool();
  const std::uint32_t before = pool.free_slabs();
  if (!pool.BeginDrain(&drain_)) return false;
  for (const EntryRef entry : drain_.entries) {
    if (!pages_.Move(entry)) break;
  }
  pool.EndDrain(drain_);
  stores_.RoomMade();
  if (pool.free_slabs() <= before) return false;
  groups_.ReportProgress(kRootGroup, config_.now());
  return true;
}

// --- At the limits of cgroups -------------------------------------------------------------------

// One batch for a cgroup that is over its limit, each in turn.
WorkResult Shrinker::ShrinkLimitedGroups() {
  if (!groups_.any_limited()) return WorkResult::kNothingToDo;
  bool blocked = false;
  const std::size_t end = groups_.end();
  for (std::size_t n = 0; n < end; ++n) {
    last_limited_ = static_cast<GroupIndex>((last_limited_ + std::size_t{1}) % end);
    const WorkResult result = ShrinkGroup(last_limited_);
    if (result == WorkResult::kWorked) return result;
    blocked |= result == WorkResult::kBlocked;
  }
  return blocked ? WorkResult::kBlocked : WorkResult::kNothingToDo;
}

WorkResult Shrinker::ShrinkGroup(GroupIndex index) {
  const Group& group = groups_.At(index);
  const std::uint64_t limit = group.pool_limit_bytes.load(std::memory_order_relaxed);
  if (limit == kNoLimit) return WorkResult::kNothingToDo;
  const std::int64_t staying = group.tree_pool_bytes.load() - group.tree_writing_bytes.load();
  const std::uint64_t bytes = staying > 0 ? static_cast<std::uint64_t>(staying) : 0;
  // Room for a few pages also where the threshold is the limit.
  const std::uint64_t target = std::min(AcceptBytes(limit), limit - 8 * kPageBytes);
  const bool begins = bytes > HighBytes(limit) || stores_.WantsRoom(index);
  group_shrinking_[index] = (group_shrinking_[index] || begins) && bytes > target;
  if (!group_shrinking_[index]) return WorkResult::kNothingToDo;
  const WorkResult result = WriteBack({.cause = Counter::writeback_started_cgroup_limit,
                                       .group = index,
                                       .bytes_max = bytes - target});
  if (result == WorkResult::kNothingToDo) group_shrinking_[index] = false;
  return result;
}

// --- On request ---------------------------------------------------------------------------------

WorkResult Shrinker::DoManualJob() {
  const auto rest = manual_.NotSent();
  if (!rest) return WorkResult::kNothingToDo;
  if (rest->pages == 0) return WorkResult::kBlocked;
  Request request{.cause = Counter::writeback_started_manual,
                  .older_than_s = rest->job.older_than_s,
                  .pages_max = std::min<std::uint64_t>(rest->pages, PutBatch::kObjectsMax)};
  if (rest->job.cgroup != kUnknownCgroup) request.group = groups_.IndexOf(rest->job.cgroup);
  const WorkResult result =
      request.group == Groups::kNoGroup ? WorkResult::kNothingToDo : WriteBack(request);
  if (result != WorkResult::kNothingToDo) return result;
  manual_.OnNothingLeft();
  return WorkResult::kBlocked;
}

WorkResult Shrinker::ShrinkProactively() {
  for (std::size_t i = 0; i < groups_.end(); ++i) {
    const auto index = static_cast<GroupIndex>(i);
    Group& group = groups_.At(index);
    if (group.proactive_pages.load(std::memory_order_relaxed) == 0) continue;
    const std::uint64_t pages = group.proactive_pages.exchange(0);
    const std::uint32_t older_than_s = group.proactive_older_than_s.load(std::memory_order_relaxed);
    const Request request{.cause = older_than_s > 0 ? Counter::writeback_started_age
                                                    : Counter::writeback_started_shrinker,
                          .group = index,
                          .descendants = false,
                          .older_than_s = older_than_s,
                          .pages_max = std::min<std::uint64_t>(pages, PutBatch::kObjectsMax),
                          // As in mm/zswap.c, shrink_memcg_cb(): warm pages then stop the shrinker.
                          .spares_count = true};
    const WorkResult result = WriteBack(request);
    // A newer request replaces the rest of this one.
    std::uint64_t nothing_new = 0;
    const std::uint64_t rest = result == WorkResult::kBlocked ? pages : pages - request.pages_max;
    if (result == WorkResult::kNothingToDo) continue;
    group.proactive_pages.compare_exchange_strong(nothing_new, rest);
    return result;
  }
  return WorkResult::kNothingToDo;
}

// Rewrites slot records that name a removed group, some at a time.
WorkResult Shrinker::ReparentSlots() {
  constexpr std::uint64_t kSlotsAtOnce = std::uint64_t{1} << 16;
  if (reparenting_.empty()) {
    groups_.Reparenting(&reparenting_);
    reparent_slot_ = 0;
    if (reparenting_.empty()) return WorkResult::kNothingToDo;
  }
  const std::uint64_t end = std::min(pages_.slots(), reparent_slot_ + kSlotsAtOnce);
  pages_.Reparent(reparent_slot_, end);
  reparent_slot_ = end;
  if (end < pages_.slots()) return WorkResult::kWorked;
  // A small device has locks that no slot of it has.
  pages_.WaitForHolders();
  groups_.Reparented(reparenting_);
  reparenting_.clear();
  return WorkResult::kWorked;
}

// --- One batch ----------------------------------------------------------------------------------

WorkResult Shrinker::WriteBack(const Request& request) {
  Writeback::Batch* const batch = writeback_.Begin(request);
  if (batch == nullptr) return WorkResult::kBlocked;
  Collect(batch);
  if (request.cause == Counter::writeback_started_manual) manual_.OnSent(batch->count);
  return writeback_.Send(batch);
}

// Fills the batch with the coldest entries of each group in proportion to its entries; then, if
// some had fewer to give, with more of the others. What a group owes beyond whole entries is its
// deficit, so that many small batches are as fair as a large one.
void Shrinker::Collect(Writeback::Batch* batch) {
  const std::uint64_t wanted = FindSources(batch->request) << kDeficitBits;
  for (const Source& source : sources_) {
    std::uint64_t& deficit = deficits_[source.group];
    deficit = std::min(deficit + wanted * source.entries / source_entries_, kDeficitMax);
    if (batch->full()) continue;
    const std::size_t before = batch->looked_at();
    writeback_.TakeColdest(batch, source.group, deficit >> kDeficitBits);
    deficit -= std::min(deficit, std::uint64_t{batch->looked_at() - before} << kDeficitBits);
    last_source_ = source.group;
  }
  for (const Source& source : sources_) {
    if (batch->full() || batch->looked_at() >= wanted >> kDeficitBits) break;
    writeback_.TakeColdest(batch, source.group, (wanted >> kDeficitBits) - batch->looked_at());
  }
}

// Returns about how many entries the request wants, by their mean size.
std::uint64_t Shrinker::FindSources(const Request& request) {
  sources_.clear();
  source_entries_ = 0;
  std::uint64_t all_entries = 0;
  for (std::size_t i = 0; i < groups_.end(); ++i) {
    const auto index = static_cast<GroupIndex>(i);
    const std::uint64_t entries = groups_.At(index).lru.size();
    all_entries += entries;
    if (entries == 0 || !writeback_.HasEntries(index, request)) continue;
    sources_.push_back({index, entries});
    source_entries_ += entries;
  }
  // Round robin: begin behind the group that was last.
  const auto next = std::find_if(sources_.begin(), sources_.end(), [this](const Source& source) {
    return source.group > last_source_;
  });
  std::rotate(sources_.begin(), next, sources_.end());
  const std::uint64_t mean_bytes =
      pages_.pool().entry_bytes() / std::max(all_entries, std::uint64_t{1});
  return std::min<std::uint64_t>(request.pages_max,
                                 request.bytes_max / std::max(mean_bytes, std::uint64_t{1}) + 1);
}

}  // namespace farswap::tier
