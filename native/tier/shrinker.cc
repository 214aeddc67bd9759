#include "tier/shrinker.h"

#include <algorithm>
#include <utility>

#include "base/thread.h"
#include "tier/codec.h"

namespace farswap::tier {
namespace {

using std::chrono::milliseconds;

// Stale remote pages are collected this long, so that they are discarded in batches.
constexpr milliseconds kDiscardDelay{100};

}  // namespace

Result<std::unique_ptr<LockedMapping>> Shrinker::CreateArenas() {
  return LockedMapping::Create(kBatches * PutBatch::kPagesMax * kPageBytes, "put-arenas");
}

Shrinker::Shrinker(const TierConfig& config, RemoteStore* remote, Pages* pages, StaleObjects* stale,
                   StoreQueue* stores, std::unique_ptr<LockedMapping> arenas)
    : config_(config),
      remote_(*remote),
      pages_(*pages),
      groups_(pages->groups()),
      stale_(*stale),
      stores_(*stores),
      accept_percent_(config.accept_threshold_percent),
      deficits_(Groups::kGroupsMax),
      group_shrinking_(Groups::kGroupsMax),
      arenas_(std::move(arenas)) {
  sources_.reserve(Groups::kGroupsMax);
  sweeping_.reserve(Groups::kGroupsMax);
  discards_.reserve(RemoteStore::kDiscardsMax);
  for (std::size_t i = 0; i < kBatches; ++i) {
    batches_[i].shrinker = this;
    batches_[i].arena = arenas_->data() + i * PutBatch::kPagesMax * kPageBytes;
    free_batches_.push_back(&batches_[i]);
  }
  stores_.WaitFor(this);
  stale_.OnFirstMark([this] {
    std::lock_guard lock(mutex_);
    wake_.notify_one();
  });
  thread_ = StartThread("fs-shrinker", [this] { Run(); });
}

void Shrinker::Stop() {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  wake_.notify_all();
  if (thread_.joinable()) {
    std::thread thread = std::move(thread_);
    lock.unlock();
    thread.join();
    lock.lock();
  }
  wake_.wait(lock, [this] { return free_batches_.size() == kBatches; });
}

void Shrinker::AfterAllocation(GroupIndex group) {
  const Pool& pool = pages_.pool();
  const std::uint64_t limit = pool.capacity_bytes();
  const std::uint64_t bytes = pool.entry_bytes();
  const bool over = bytes > HighBytes(limit) ||
                    (bytes > AcceptBytes(limit) && pool.free_slabs() < ReserveSlabs());
  const std::uint32_t high_percent = (100 + accept_threshold_percent()) / 2;
  if (!over &&
      !(groups_.any_limited() && groups_.OverLimit(group, 0, high_percent) != Groups::kNoGroup)) {
    return;
  }
  Wake();
}

void Shrinker::Wake() {
  if (wake_wanted_.load(std::memory_order_relaxed) || wake_wanted_.exchange(true)) return;
  std::lock_guard lock(mutex_);
  wake_.notify_one();
}

void Shrinker::SetAcceptThreshold(std::uint32_t percent) {
  accept_percent_.store(percent, std::memory_order_relaxed);
  Wake();
}

void Shrinker::SetRecompression(const std::optional<Compressor>& compressor) {
  recompress_level_.store(compressor ? compressor->level : 0, std::memory_order_relaxed);
}

void Shrinker::Run() {
  may_recompress_ = PrepareThreadForPages().ok();
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    wake_wanted_.store(false);
    lock.unlock();
    const Step step = WorkOnce();
    if (step != Step::kWorked && stale_.any()) FlushDiscards();
    lock.lock();
    if (stopping_ || step == Step::kWorked || wake_wanted_.load()) continue;
    if (step == Step::kBlocked) {
      // A finished batch wakes us, and so does a new waiter; a server that came back does not.
      wake_.wait_for(lock, std::max(kBackoffMin, backoff_));
    } else if (stale_.any()) {
      wake_.wait_for(lock, kDiscardDelay);
    } else {
      wake_.wait(lock);
    }
  }
}

// Whatever is most urgent and has something to do.
Shrinker::Step Shrinker::WorkOnce() {
  bool blocked = false;
  for (const auto work : {&Shrinker::ShrinkStep, &Shrinker::GroupLimitStep, &Shrinker::ManualStep,
                          &Shrinker::SweepStep, &Shrinker::AheadStep}) {
    const Step step = (this->*work)();
    if (step == Step::kWorked) return step;
    blocked |= step == Step::kBlocked;
  }
  return blocked ? Step::kBlocked : Step::kNothingToDo;
}

std::uint64_t Shrinker::PendingEntryBytes() const {
  const std::uint64_t all = pages_.pool().entry_bytes();
  const std::uint64_t leaving = in_flight_bytes_.load();
  return all > leaving ? all - leaving : 0;
}

std::uint32_t Shrinker::ReserveSlabs() const {
  return std::max(1u, pages_.pool().slab_limit() / 100);
}

void Shrinker::ReportProgress(GroupIndex group) { groups_.ReportProgress(group, config_.now()); }

Shrinker::Step Shrinker::ShrinkStep() {
  const bool waiters = stores_.WantsRoom(kRootGroup);
  const Pool& pool = pages_.pool();
  const std::uint64_t limit = pool.capacity_bytes();
  const std::uint64_t accept = AcceptBytes(limit);
  const std::uint64_t bytes = PendingEntryBytes();
  const bool short_of_slabs = pool.free_slabs() < ReserveSlabs();
  const bool over_limit = pool.used_slabs() > pool.slab_limit();
  if (waiters || over_limit || bytes > HighBytes(limit) || (bytes > accept && short_of_slabs)) {
    shrinking_.store(true, std::memory_order_relaxed);
  }
  if (!shrinking()) return Step::kNothingToDo;
  if (short_of_slabs && CompactSlab()) {
    ReportProgress(kRootGroup);
    return Step::kWorked;
  }
  // A store that waits although the entries are under the threshold (no slab could be emptied for
  // its size) gets a little more at a time, not all that could be in flight.
  Step step = Step::kNothingToDo;
  Request request;
  if (bytes > accept) {
    request.bytes_max = bytes - accept;
    step = WriteBatch(request);
  } else if (waiters) {
    request.bytes_max = 4 * Pool::kSlabBytes;
    step = in_flight_bytes_.load() > 0 ? Step::kBlocked : WriteBatch(request);
  }
  if (step == Step::kNothingToDo) shrinking_.store(false, std::memory_order_relaxed);
  return step;
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
  return pool.free_slabs() > before;
}

// One batch for a cgroup that is over its limit, each in turn.
Shrinker::Step Shrinker::GroupLimitStep() {
  if (!groups_.any_limited()) return Step::kNothingToDo;
  bool blocked = false;
  const std::size_t end = groups_.end();
  for (std::size_t n = 0; n < end; ++n) {
    last_limited_ = static_cast<GroupIndex>((last_limited_ + std::size_t{1}) % end);
    const Step step = ShrinkGroup(last_limited_);
    if (step == Step::kWorked) return step;
    blocked |= step == Step::kBlocked;
  }
  return blocked ? Step::kBlocked : Step::kNothingToDo;
}

Shrinker::Step Shrinker::ShrinkGroup(GroupIndex index) {
  const Group& group = groups_.At(index);
  const std::uint64_t limit = group.pool_limit_bytes.load(std::memory_order_relaxed);
  if (limit == kNoLimit) return Step::kNothingToDo;
  const std::int64_t pending = group.tree_pool_bytes.load() - group.tree_writing_bytes.load();
  const std::uint64_t bytes = pending > 0 ? static_cast<std::uint64_t>(pending) : 0;
  // Room for a few pages also where the threshold is the limit.
  const std::uint64_t target = std::min(AcceptBytes(limit), limit - 8 * kPageBytes);
  Request request{.cause = Cause::kGroupLimit, .group = index};
  const bool begins = bytes > HighBytes(limit) || stores_.WantsRoom(index);
  group_shrinking_[index] = (group_shrinking_[index] || begins) && bytes > target;
  if (!group_shrinking_[index]) return Step::kNothingToDo;
  request.bytes_max = bytes - target;
  const Step step = WriteBatch(request);
  if (step == Step::kNothingToDo) group_shrinking_[index] = false;
  return step;
}

Shrinker::Step Shrinker::AheadStep() {
  for (std::size_t i = 0; i < groups_.end(); ++i) {
    const auto index = static_cast<GroupIndex>(i);
    Group& group = groups_.At(index);
    if (group.ahead_pages.load(std::memory_order_relaxed) == 0) continue;
    const std::uint64_t pages = group.ahead_pages.exchange(0);
    const std::uint32_t older_than_s = group.ahead_older_than_s.load(std::memory_order_relaxed);
    Request request{.cause = older_than_s > 0 ? Cause::kAge : Cause::kShrinker,
                    .group = index,
                    .descendants = false,
                    .older_than_s = older_than_s,
                    // As in mm/zswap.c, shrink_memcg_cb(): what is warm is then left in peace.
                    .spares_count = true};
    request.pages_max = static_cast<std::size_t>(std::min<std::uint64_t>(pages, request.pages_max));
    const Step step = WriteBatch(request);
    // What was asked for anew meanwhile replaces the rest of what was asked before.
    std::uint64_t nothing_new = 0;
    if (step == Step::kBlocked) group.ahead_pages.compare_exchange_strong(nothing_new, pages);
    if (step == Step::kWorked) {
      group.ahead_pages.compare_exchange_strong(nothing_new, pages - request.pages_max);
    }
    if (step != Step::kNothingToDo) return step;
  }
  return Step::kNothingToDo;
}

Shrinker::Step Shrinker::ManualStep() {
  Request request{.cause = Cause::kManual};
  {
    std::lock_guard lock(mutex_);
    if (manual_.finished) return Step::kNothingToDo;
    const std::uint64_t target = (manual_.target_bytes + kPageBytes - 1) / kPageBytes;
    const std::uint64_t started = manual_.written_bytes / kPageBytes + manual_sent_pages_;
    if (started >= target) return Step::kBlocked;
    request.pages_max =
        static_cast<std::size_t>(std::min<std::uint64_t>(target - started, PutBatch::kPagesMax));
    request.older_than_s = manual_job_.older_than_s;
    if (manual_job_.cgroup != kUnknownCgroup) request.group = groups_.IndexOf(manual_job_.cgroup);
  }
  const Step step = request.group == Groups::kNoGroup ? Step::kNothingToDo : WriteBatch(request);
  std::lock_guard lock(mutex_);
  if (step == Step::kNothingToDo && manual_sent_pages_ == 0 && !manual_.finished) {
    EndManual("no more entries to write back");
  }
  return step == Step::kNothingToDo ? Step::kBlocked : step;
}

// Rewrites records that name groups which are gone, some at a time.
Shrinker::Step Shrinker::SweepStep() {
  constexpr std::uint64_t kSlotsAtOnce = std::uint64_t{1} << 16;
  if (sweeping_.empty()) {
    groups_.Leaving(&sweeping_);
    sweep_slot_ = 0;
    if (sweeping_.empty()) return Step::kNothingToDo;
  }
  const std::uint64_t end = std::min(pages_.slots(), sweep_slot_ + kSlotsAtOnce);
  pages_.Reparent(sweep_slot_, end);
  sweep_slot_ = end;
  if (end < pages_.slots()) return Step::kWorked;
  // A small device has locks that no slot of it has.
  pages_.WaitForHolders();
  groups_.SweptUp(sweeping_);
  sweeping_.clear();
  return Step::kWorked;
}

// What a server does not take now stays marked, in the table where there is room for all of it.
void Shrinker::FlushDiscards() {
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

bool Shrinker::StartManual(const WritebackJob& job) {
  std::lock_guard lock(mutex_);
  if (!manual_.finished || manual_sent_pages_ > 0) return false;
  manual_job_ = job;
  manual_ = {job.bytes, 0, 0, false, ""};
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
