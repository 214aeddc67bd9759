#include "tier/tier.h"

#include <string>
#include <utility>

#include "base/boot_clock.h"
#include "base/check.h"
#include "tier/codec.h"

namespace farswap::tier {
namespace {

Outcome ValidateThreshold(std::uint32_t percent) {
  if (percent >= 1 && percent <= 100) return std::monostate{};
  return Error{"an accept threshold of " + std::to_string(percent) +
               " percent is outside of 1 to 100"};
}

}  // namespace

std::uint32_t BootSeconds() { return static_cast<std::uint32_t>(BootMilliseconds() / 1000); }

Result<std::unique_ptr<Tier>> Tier::Create(const TierConfig& config, RemoteStore* remote,
                                           std::shared_ptr<State> state) {
  const Outcome valid = ValidateThreshold(config.accept_threshold_percent);
  if (!valid.ok()) return valid.error();
  if (state == nullptr) {
    auto made = State::Create(config.slots, config.pool_bytes_max);
    if (!made.ok()) return made.error();
    state = std::move(made.value());
  }
  auto arenas = Writeback::CreateArenas();
  if (!arenas.ok()) return arenas.error();
  std::unique_ptr<Tier> tier(new Tier(config, remote, std::move(state), std::move(arenas.value())));
  if (!tier->recovered_.ok()) return tier->recovered_.error();
  return tier;
}

Tier::Tier(const TierConfig& config, RemoteStore* remote, std::shared_ptr<State> state,
           std::unique_ptr<Memory> arenas)
    : config_(config),
      stale_(state->slots().size()),
      pages_(std::move(state), &stale_),
      recovered_(pages_.state().adopted() ? pages_.Recover(config_.boot_seconds())
                                          : Outcome(std::monostate{})),
      owners_(&pages_),
      fetches_(config_, remote, &pages_),
      stores_(config_, &pages_, &owners_),
      packer_(&pages_),
      writeback_(config_, remote, &pages_, &stale_, &packer_, std::move(arenas)),
      shrinker_(config_, &pages_, &stale_, &stores_, &writeback_, &manual_) {
  pages_.SetAcceptThreshold(config_.accept_threshold_percent);
}

void Tier::StopWriteback() {
  fetches_.WaitForAdoptions();
  stores_.Stop();
  shrinker_.Stop();
}

GroupIndex Tier::GroupHint(SlotIndex slot) {
  const auto lock = pages_.Lock(slot);
  return owners_.GroupOf(slot);
}

IoStatus Tier::TryStore(SlotIndex slot, const std::byte* page, PendingStore* store) {
  FARSWAP_CHECK(slot < pages_.slots());
  SlotRecord next;
  if (const std::optional<std::uint64_t> fill = SameFilled(page)) {
    next.state = SlotState::kSameFilled;
    next.fill = *fill;
  } else {
    const GroupIndex group = GroupHint(slot);
    const Compressed object = CompressPage(page, pages_.groups().CompressorOf(group));
    const Pages::Room room = stores_.TakeRoom(group, object.bytes.size());
    if (room.entry == kNoEntry) {
      if (store == nullptr) return IoStatus::kPending;
      return stores_.Wait(store, slot, object, room.full);
    }
    const std::uint32_t checksum = PageChecksum(slot, object.codec, object.bytes);
    next = pages_.Fill(room.entry, object, checksum, config_.boot_seconds());
  }
  {
    const auto lock = pages_.Lock(slot);
    owners_.Attribute(slot, &next);
    pages_.Publish(slot, next);
    stores_.Supersede(slot);
  }
  if (next.InPool()) shrinker_.AfterAllocation(next.group);
  return IoStatus::kOk;
}

void Tier::Invalidate(SlotIndex first, std::uint64_t count) {
  FARSWAP_CHECK(first + count <= pages_.slots());
  pages_.ForEach(first, first + count, [this](SlotIndex slot) {
    stores_.Supersede(slot);
    const SlotRecord& old = pages_.Get(slot);
    if (old.state != SlotState::kEmpty) pages_.Forget(slot, Counter::trims, old.sequence);
  });
}

bool Tier::OnSlotFree(SlotIndex slot) {
  FARSWAP_CHECK(slot < pages_.slots());
  const auto lock = pages_.Lock(slot);
  const std::optional<std::uint32_t> freed_at = owners_.FreedAt(slot);
  const bool superseded = freed_at && stores_.SupersedeFreed(slot, *freed_at);
  return owners_.ForgetFreed(slot) || superseded;
}

void Tier::OwnersOf(SlotIndex first, std::span<CgroupId> owners) {
  FARSWAP_CHECK(first + owners.size() <= pages_.slots());
  pages_.ForEach(first, first + owners.size(),
                 [&](SlotIndex slot) { owners[slot - first] = owners_.OwnerOf(slot); });
}

bool Tier::PlaceCgroup(CgroupId id, CgroupId parent) {
  const bool placed = pages_.groups().Place(id, parent);
  LimitsChanged();
  return placed;
}

void Tier::RemoveCgroup(CgroupId id) {
  if (pages_.groups().Remove(id)) LimitsChanged();
}

bool Tier::ConfigureCgroup(CgroupId id, const GroupSettings& settings) {
  const bool done = pages_.groups().Configure(id, settings);
  LimitsChanged();
  return done;
}

// Pages may have to leave the pool, slot records to be rewritten; stores that wait may fit.
void Tier::LimitsChanged() {
  shrinker_.Wake();
  stores_.RoomMade();
}

Outcome Tier::SetLimits(std::uint64_t pool_bytes, std::uint32_t accept_threshold_percent) {
  if (pool_bytes < Pool::kPoolBytesMin || pool_bytes > config_.pool_bytes_max) {
    return Error{"a pool limit of " + std::to_string(pool_bytes) + " bytes is outside of " +
                 std::to_string(Pool::kPoolBytesMin) + " to the " +
                 std::to_string(config_.pool_bytes_max) + " that were allocated at start"};
  }
  Outcome valid = ValidateThreshold(accept_threshold_percent);
  if (!valid.ok()) return valid;
  pages_.pool().SetSlabLimit(static_cast<std::uint32_t>(pool_bytes / Pool::kSlabBytes));
  pages_.SetAcceptThreshold(accept_threshold_percent);
  LimitsChanged();
  return std::monostate{};
}

bool Tier::StartManualWriteback(const WritebackJob& job) {
  const bool started = manual_.Start(job);
  shrinker_.Wake();
  return started;
}

void Tier::WriteBackProactively(CgroupId id, std::uint64_t pages, std::uint32_t older_than_s) {
  const GroupIndex index = id == kUnknownCgroup ? kRootGroup : pages_.groups().IndexOf(id);
  if (index == tier::Groups::kNoGroup) return;
  pages_.groups().At(index).proactive_older_than_s = older_than_s;
  pages_.groups().At(index).proactive_pages = pages;
  shrinker_.Wake();
}

TierStats Tier::Stats() const {
  TierStats stats{};
  stats.pool_limit_bytes = pages_.pool().capacity_bytes();
  stats.pool_used_bytes = pages_.pool().used_bytes();
  stats.pool_entry_bytes = pages_.pool().entry_bytes();
  stats.pool_payload_bytes = pages_.payload_bytes();
  stats.metadata_bytes = pages_.table_bytes();
  stats.accept_threshold_percent = pages_.accept_threshold_percent();
  stats.shrinking = shrinker_.shrinking();
  pages_.groups().Total(&stats.pages, &stats.counters);
  return stats;
}

}  // namespace farswap::tier
