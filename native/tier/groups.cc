#include "tier/groups.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/step.h"

namespace farswap::tier {
namespace {

constexpr std::uint32_t PackCompressor(const Compressor& compressor) {
  return static_cast<std::uint32_t>(compressor.codec) << 24 |
         static_cast<std::uint32_t>(compressor.level);
}
constexpr Compressor UnpackCompressor(std::uint32_t packed) {
  return {static_cast<Codec>(packed >> 24), static_cast<int>(packed & 0xffffff)};
}

// Changes meanwhile are not lost: both wrap around zero.
void MoveCount(std::atomic<std::uint64_t>* from, std::atomic<std::uint64_t>* to) {
  to->fetch_add(from->exchange(0, std::memory_order_relaxed), std::memory_order_relaxed);
}

void MoveCounts(Group* from, Group* to) {
  for (std::size_t i = 0; i < kSlotStates; ++i) {
    MoveCount(&from->pages_by_state[i], &to->pages_by_state[i]);
  }
  MoveCount(&from->raw_pages, &to->raw_pages);
  for (std::size_t i = 0; i < kCounterCount; ++i) MoveCount(&from->counters[i], &to->counters[i]);
  from->local_latency.MoveTo(&to->local_latency);
  from->remote_latency.MoveTo(&to->remote_latency);
}

std::uint64_t NotNegative(std::int64_t value) {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(value, 0));
}

// Until slot records are rewritten, a count that went down here and up in a removed group is below
// zero.
PageCounts ClampToZero(PageCounts pages) {
  for (std::uint64_t* count : {&pages.same_filled, &pages.local, &pages.writing, &pages.clean,
                               &pages.remote, &pages.raw}) {
    *count = NotNegative(static_cast<std::int64_t>(*count));
  }
  return pages;
}

}  // namespace

void LatencyHistogram::Add(std::chrono::nanoseconds took) {
  const auto ns = static_cast<std::uint64_t>(took.count());
  const auto width = static_cast<std::size_t>(std::bit_width(ns / 1000));
  buckets_[std::min(width, LatencyStats::kBuckets - 1)].fetch_add(1, std::memory_order_relaxed);
  sum_ns_.fetch_add(ns, std::memory_order_relaxed);
}

LatencyStats LatencyHistogram::Read() const {
  LatencyStats stats;
  for (std::size_t i = 0; i < stats.buckets.size(); ++i) {
    stats.buckets[i] = buckets_[i].load(std::memory_order_relaxed);
  }
  stats.sum_ns = sum_ns_.load(std::memory_order_relaxed);
  return stats;
}

void LatencyHistogram::MoveTo(LatencyHistogram* other) {
  for (std::size_t i = 0; i < buckets_.size(); ++i) MoveCount(&buckets_[i], &other->buckets_[i]);
  MoveCount(&sum_ns_, &other->sum_ns_);
}

PageCounts Group::Pages() const {
  const auto pages = [this](SlotState state) {
    return pages_by_state[static_cast<std::size_t>(state)].load(std::memory_order_relaxed);
  };
  return {pages(SlotState::kSameFilled), pages(SlotState::kLocal),
          pages(SlotState::kWriting),    pages(SlotState::kClean),
          pages(SlotState::kRemote),     raw_pages.load(std::memory_order_relaxed)};
}

Groups::Groups(Pool* pool, std::span<std::atomic<CgroupId>, kGroupsMax> ids)
    : pool_(pool), ids_(ids), groups_(new Group[kGroupsMax]) {
  static_assert(kGroupsMax + kRemovedIdsMax < CgroupMap::kIdsMax && kGroupsMax < kNoGroup);
  for (std::size_t i = 0; i < kGroupsMax; ++i) {
    groups_[i].lru.Init(pool_);
    groups_[i].reparented_to = static_cast<GroupIndex>(i);
  }
  groups_[kRootGroup].in_use = true;
  groups_[kRootGroup].placed = true;
  groups_[kRootGroup].settings.compressor = Compressor{};
  free_.reserve(kGroupsMax);
  reparenting_.reserve(kGroupsMax);
  removed_ids_.assign(kRemovedIdsMax, kUnknownCgroup);
  for (std::size_t i = kGroupsMax; i-- > 1;) free_.push_back(static_cast<GroupIndex>(i));
  Refresh();
}

GroupIndex Groups::IndexOf(CgroupId id) const {
  const GroupIndex index = Lookup(id);
  return index != kNoGroup && groups_[index].id == id ? index : kNoGroup;
}

GroupIndex Groups::Add(CgroupId id) {
  std::lock_guard lock(mutex_);
  const GroupIndex index = Lookup(id);
  if (index != kNoGroup) return index;
  const GroupIndex added = AddLocked(id);
  return added == kNoGroup ? kRootGroup : added;
}

// Makes a group of the id below the root group. kNoGroup: no room.
GroupIndex Groups::AddLocked(CgroupId id) {
  if (free_.empty()) return kNoGroup;
  const GroupIndex index = free_.back();
  free_.pop_back();
  ids_[index] = id;
  Begin(index, id);
  return index;
}

void Groups::Begin(GroupIndex index, CgroupId id) {
  Group& group = groups_[index];
  group.id = id;
  group.parent = kRootGroup;
  group.settings = {};
  group.in_use = true;
  group.placed = false;
  group.pool_limit_bytes = kNoLimit;
  group.remote_pages_max = kNoLimit;
  group.may_write_back = groups_[kRootGroup].may_write_back.load();
  group.compressor = groups_[kRootGroup].compressor.load();
  group.proactive_pages = 0;
  // A shortage of the cgroup that had the index before is not this one's.
  group.progress.fetch_add(1);
  group.reparented_to.store(index, std::memory_order_release);
  if (index >= end()) end_.store(std::size_t{index} + 1, std::memory_order_release);
  by_id_.Set(id, index);
}

void Groups::BeginRecovery() {
  const std::lock_guard lock(mutex_);
  free_.clear();
  for (std::size_t i = 1; i < kGroupsMax; ++i) {
    const CgroupId id = ids_[i];
    const GroupIndex known = id == kUnknownCgroup ? kRootGroup : Lookup(id);
    if (known == kNoGroup) {
      Begin(static_cast<GroupIndex>(i), id);
    } else {
      groups_[i].reparented_to = known;
    }
  }
}

void Groups::EndRecovery() {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = kGroupsMax; i-- > 1;) {
    if (groups_[i].in_use) continue;
    ids_[i] = kUnknownCgroup;
    groups_[i].reparented_to = static_cast<GroupIndex>(i);
    free_.push_back(static_cast<GroupIndex>(i));
  }
  Refresh();
}

Groups::Locked Groups::Lock(GroupIndex index) {
  while (true) {
    const GroupIndex now = Resolve(index);
    std::unique_lock lock(groups_[now].mutex);
    if (groups_[now].reparented_to.load(std::memory_order_relaxed) == now) {
      return {&groups_[now], std::move(lock)};
    }
  }
}

void Groups::Add(const Locked& group, const Charge& charge) {
  group->own.pool_bytes += charge.pool_bytes;
  group->own.writing_bytes += charge.writing_bytes;
  group->own.remote_pages += charge.remote_pages;
  auto index = static_cast<GroupIndex>(group.operator->() - groups_.get());
  while (index != kRootGroup) {
    Group& above = groups_[index];
    above.tree_pool_bytes.fetch_add(charge.pool_bytes);
    if (charge.writing_bytes != 0) {
      above.tree_writing_bytes.fetch_add(charge.writing_bytes, std::memory_order_relaxed);
    }
    if (charge.remote_pages != 0) {
      above.tree_remote_pages.fetch_add(charge.remote_pages, std::memory_order_relaxed);
    }
    index = above.parent.load(std::memory_order_relaxed);
  }
}

GroupIndex Groups::OverLimit(GroupIndex index, std::uint64_t more_bytes,
                             std::uint32_t percent) const {
  while (index != kRootGroup) {
    const Group& group = groups_[index];
    const std::uint64_t limit = group.pool_limit_bytes.load(std::memory_order_relaxed);
    if (limit != kNoLimit) {
      const auto bytes = NotNegative(group.tree_pool_bytes.load());
      if (bytes + more_bytes > limit * percent / 100) return index;
    }
    index = group.parent.load(std::memory_order_relaxed);
  }
  return kNoGroup;
}

bool Groups::MayWriteBack(GroupIndex index) const {
  if (!groups_[index].may_write_back.load(std::memory_order_relaxed)) return false;
  if (!any_limited()) return true;
  while (index != kRootGroup) {
    const Group& group = groups_[index];
    const std::uint64_t quota = group.remote_pages_max.load(std::memory_order_relaxed);
    if (quota != kNoLimit &&
        NotNegative(group.tree_remote_pages.load(std::memory_order_relaxed)) >= quota) {
      return false;
    }
    index = group.parent.load(std::memory_order_relaxed);
  }
  return true;
}

bool Groups::IsWithin(GroupIndex index, GroupIndex ancestor) const {
  while (index != ancestor) {
    if (index == kRootGroup) return false;
    index = groups_[index].parent.load(std::memory_order_relaxed);
  }
  return true;
}

// The pool itself may always hope: its entries are overwritten and trimmed, and settings change.
bool Groups::MayMakeRoom(GroupIndex group) const {
  if (group == kRootGroup) return true;
  for (std::size_t i = 1; i < end(); ++i) {
    const auto index = static_cast<GroupIndex>(i);
    const Group& candidate = groups_[index];
    if (candidate.pages_by_state[static_cast<std::size_t>(SlotState::kClean)] > 0 &&
        IsWithin(index, group)) {
      return true;
    }
    if (candidate.lru.size() == 0 &&
        candidate.tree_writing_bytes.load(std::memory_order_relaxed) <= 0) {
      continue;
    }
    if (IsWithin(index, group) && MayWriteBack(index)) return true;
  }
  return false;
}

void Groups::ReportProgress(GroupIndex index, Time now) {
  while (true) {
    Group& group = groups_[index];
    group.last_progress_ns.store(now.time_since_epoch().count(), std::memory_order_relaxed);
    group.progress.fetch_add(1);
    if (index == kRootGroup) return;
    index = group.parent.load(std::memory_order_relaxed);
  }
}

Compressor Groups::CompressorOf(GroupIndex index) const {
  return UnpackCompressor(groups_[index].compressor.load(std::memory_order_relaxed));
}

bool Groups::Place(CgroupId id, CgroupId parent) {
  std::lock_guard lock(mutex_);
  if (id == kUnknownCgroup) return false;
  if (id == parent) {
    // The root cgroup's own pages are the root group's.
    if (groups_[kRootGroup].id != kUnknownCgroup) return groups_[kRootGroup].id == id;
    RemoveLocked(id);  // of pages that came before
    groups_[kRootGroup].id = id;
    by_id_.Set(id, kRootGroup);
    return true;
  }
  GroupIndex above = kRootGroup;
  if (parent != kUnknownCgroup) {
    above = Lookup(parent);
    if (above == kNoGroup || groups_[above].id != parent || !groups_[above].placed) return false;
  }
  GroupIndex index = Lookup(id);
  if (index == kRootGroup && groups_[kRootGroup].id == id) return false;
  // An id that leads elsewhere was that of a removed cgroup: the kernel uses it again.
  if (index == kNoGroup || groups_[index].id != id) index = AddLocked(id);
  if (index == kNoGroup) return false;
  Group& group = groups_[index];
  if (group.placed) return group.parent == above;
  {
    std::lock_guard group_lock(group.mutex);
    group.parent = above;
    for (GroupIndex i = above; i != kRootGroup; i = groups_[i].parent) {
      groups_[i].tree_pool_bytes += group.tree_pool_bytes;
      groups_[i].tree_writing_bytes += group.tree_writing_bytes;
      groups_[i].tree_remote_pages += group.tree_remote_pages;
    }
  }
  group.placed = true;
  Refresh();
  return true;
}

bool Groups::Configure(CgroupId id, const GroupSettings& settings) {
  std::lock_guard lock(mutex_);
  if (id == kUnknownCgroup) return false;
  GroupIndex index = Lookup(id);
  if (index == kNoGroup || groups_[index].id != id) index = AddLocked(id);
  if (index == kNoGroup) return false;
  const std::optional<Compressor> keep = groups_[kRootGroup].settings.compressor;
  groups_[index].settings = settings;
  if (index == kRootGroup && !settings.compressor) groups_[index].settings.compressor = keep;
  Refresh();
  return true;
}

void Groups::SetRootCompressor(const Compressor& compressor) {
  std::lock_guard lock(mutex_);
  groups_[kRootGroup].settings.compressor = compressor;
  Refresh();
}

// What is in force in each group follows from its settings and those above it.
void Groups::Refresh() {
  std::size_t limited = 0;
  for (std::size_t i = 0; i < end(); ++i) {
    Group& group = groups_[i];
    if (!group.in_use) continue;
    const std::uint64_t limit = group.settings.pool_limit_bytes;
    const bool root = i == kRootGroup;  // the pool's own limit is its limit
    group.pool_limit_bytes = root ? kNoLimit : std::max(limit, kGroupLimitMin);
    group.remote_pages_max = root ? kNoLimit : group.settings.remote_pages_max;
    if (group.pool_limit_bytes != kNoLimit || group.remote_pages_max != kNoLimit) ++limited;
    bool writeback = true;
    std::optional<Compressor> compressor;
    for (auto above = static_cast<GroupIndex>(i);; above = groups_[above].parent) {
      writeback = writeback && groups_[above].settings.writeback;
      if (!compressor) compressor = groups_[above].settings.compressor;
      if (above == kRootGroup) break;
    }
    group.may_write_back = writeback;
    group.compressor = PackCompressor(*compressor);
  }
  limited_ = limited;
}

// Redirects the id of a removed group, and those of groups removed into it, to its parent.
void Groups::ReparentId(CgroupId id, GroupIndex from, GroupIndex to) {
  by_id_.Redirect(from, to);
  CgroupId& oldest = removed_ids_[next_removed_id_];
  next_removed_id_ = (next_removed_id_ + 1) % kRemovedIdsMax;
  if (oldest != kUnknownCgroup && oldest != id) {
    const GroupIndex index = Lookup(oldest);
    if (index != kNoGroup && groups_[index].id != oldest) by_id_.Erase(oldest);
  }
  oldest = id;
}

// A charge that goes up from a child may pass this group while its parent changes: the parent gets
// it either way, and the sums of this group are not read again.
bool Groups::Remove(CgroupId id) {
  std::lock_guard lock(mutex_);
  return RemoveLocked(id);
}

bool Groups::RemoveLocked(CgroupId id) {
  const GroupIndex index = id == kUnknownCgroup ? kNoGroup : Lookup(id);
  if (index == kNoGroup || index == kRootGroup || groups_[index].id != id) return false;
  Group& group = groups_[index];
  const GroupIndex above = group.parent;
  // First: a thread that finds the group empty must not find its limit.
  group.pool_limit_bytes = kNoLimit;
  for (std::size_t i = 1; i < end(); ++i) {
    Group& child = groups_[i];
    if (!child.in_use || child.parent != index) continue;
    std::lock_guard child_lock(child.mutex);
    child.parent = above;
  }
  ReparentId(id, index, above);
  {
    Group& parent = groups_[above];
    std::scoped_lock both(group.mutex, parent.mutex);
    parent.lru.SpliceCold(&group.lru);
    parent.own.pool_bytes += group.own.pool_bytes;
    parent.own.writing_bytes += group.own.writing_bytes;
    parent.own.remote_pages += group.own.remote_pages;
    group.own = {};
    group.reparented_to.store(above, std::memory_order_release);
  }
  MoveCounts(&group, &groups_[above]);
  group.in_use = false;
  reparenting_.push_back(index);
  for (const GroupIndex removed : reparenting_) ids_[removed] = ids_[Resolve(removed)].load();
  Reach(Step::kRemoved);
  Refresh();
  return true;
}

void Groups::Reparenting(std::vector<GroupIndex>* removed) {
  std::lock_guard lock(mutex_);
  removed->assign(reparenting_.begin(), reparenting_.end());
}

void Groups::Reparented(const std::vector<GroupIndex>& removed) {
  std::lock_guard lock(mutex_);
  for (const GroupIndex index : removed) {
    Group& group = groups_[index];
    MoveCounts(&group, &groups_[Resolve(index)]);
    group.tree_pool_bytes = 0;
    group.tree_writing_bytes = 0;
    group.tree_remote_pages = 0;
    std::erase(reparenting_, index);
    ids_[index] = kUnknownCgroup;
    free_.push_back(index);
  }
}

GroupStats Groups::StatsOf(const Group& group) const {
  GroupStats stats;
  const bool root = &group == groups_.get();
  stats.id = group.id;
  stats.parent = root ? kUnknownCgroup : groups_[group.parent].id.load();
  stats.placed = group.placed;
  stats.settings = group.settings;
  stats.pages = ClampToZero(group.Pages());
  {
    std::lock_guard lock(const_cast<std::mutex&>(group.mutex));
    stats.pool_bytes = NotNegative(group.own.pool_bytes);
    stats.tree_remote_pages = NotNegative(group.own.remote_pages);
  }
  stats.tree_pool_bytes = root ? pool_->entry_bytes() : NotNegative(group.tree_pool_bytes);
  if (!root) stats.tree_remote_pages = NotNegative(group.tree_remote_pages);
  for (std::size_t i = 0; i < kCounterCount; ++i) {
    stats.counters[i] = group.counters[i].load(std::memory_order_relaxed);
  }
  stats.local_latency = group.local_latency.Read();
  stats.remote_latency = group.remote_latency.Read();
  return stats;
}

std::vector<GroupStats> Groups::Stats() const {
  std::vector<GroupStats> all;
  std::unique_lock lock(mutex_);
  for (std::size_t count = InUse(); all.capacity() < count; count = InUse()) {
    // Without the lock: the first store of a cgroup takes it, and may be what frees memory.
    lock.unlock();
    all.reserve(count);
    lock.lock();
  }
  for (std::size_t i = 0; i < end(); ++i) {
    if (groups_[i].in_use) all.push_back(StatsOf(groups_[i]));
  }
  for (std::size_t i = 1; i < all.size(); ++i) {
    const bool below_root = all[i].parent == all[0].id;
    if (below_root) all[0].tree_remote_pages += all[i].tree_remote_pages;
  }
  return all;
}

void Groups::Total(PageCounts* pages, CounterValues* counters) const {
  std::lock_guard lock(mutex_);
  *pages = {};
  *counters = {};
  for (std::size_t i = 0; i < end(); ++i) {
    const PageCounts of = groups_[i].Pages();
    pages->same_filled += of.same_filled;
    pages->local += of.local;
    pages->writing += of.writing;
    pages->clean += of.clean;
    pages->remote += of.remote;
    pages->raw += of.raw;
    for (std::size_t c = 0; c < kCounterCount; ++c) {
      (*counters)[c] += groups_[i].counters[c].load(std::memory_order_relaxed);
    }
  }
}

}  // namespace farswap::tier
