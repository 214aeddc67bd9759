#include "tier/tier.h"

#include <cassert>
#include <cstring>
#include <ctime>
#include <string>
#include <utility>

#include "tier/codec.h"
#include "tier/tier_impl.h"

namespace farswap::tier {

std::uint32_t UnixSeconds() {
  timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return static_cast<std::uint32_t>(now.tv_sec);
}

Result<std::unique_ptr<Tier>> Tier::Create(const TierConfig& config, RemoteStore* remote) {
  if (config.accept_threshold_percent < 1 || config.accept_threshold_percent > 100) {
    return Error{"an accept threshold of " + std::to_string(config.accept_threshold_percent) +
                 " percent is outside of 1 to 100"};
  }
  auto table = SlotTable::Create(config.slots);
  if (!table.ok()) return table.error();
  auto pool = Pool::Create(config.pool_bytes_max);
  if (!pool.ok()) return pool.error();
  auto arenas = Shrinker::CreateArenas();
  if (!arenas.ok()) return arenas.error();
  return std::unique_ptr<Tier>(new TierImpl(config, remote, std::move(table.value()),
                                            std::move(pool.value()), std::move(arenas.value())));
}

TierImpl::TierImpl(const TierConfig& config, RemoteStore* remote, std::unique_ptr<SlotTable> table,
                   std::unique_ptr<Pool> pool, std::unique_ptr<LockedMapping> arenas)
    : config_(config),
      remote_(remote),
      table_(std::move(table)),
      pool_(std::move(pool)),
      lru_(pool_.get()),
      shrinker_(this, std::move(arenas)) {}

TierImpl::~TierImpl() { shrinker_.Stop(); }

void TierImpl::StopWriteback() { shrinker_.Stop(); }

void TierImpl::CountState(const SlotRecord& record, int by) {
  const auto delta = static_cast<std::uint64_t>(static_cast<std::int64_t>(by));
  pages_by_state_[static_cast<std::size_t>(record.state)].fetch_add(delta,
                                                                    std::memory_order_relaxed);
  if (!record.InPool()) return;
  payload_bytes_.fetch_add(delta * record.length, std::memory_order_relaxed);
  if (static_cast<Codec>(record.codec) == Codec::kRaw) {
    pages_raw_.fetch_add(delta, std::memory_order_relaxed);
  }
}

void TierImpl::DropEntry(const SlotRecord& record) {
  if (!record.InPool()) return;
  if (record.state == SlotState::kLocal) lru_.Remove(record.object.entry);
  pool_->Free(record.object.entry);
}

void TierImpl::Replace(SlotIndex slot, SlotRecord next) {
  const SlotRecord old = table_->Get(slot);
  CountState(old, -1);
  CountState(next, +1);
  table_->Set(slot, next);
  DropEntry(old);
  // A page being written comes back here as raced, and is discarded then.
  if (old.state == SlotState::kRemote) shrinker_.DiscardLater(slot);
}

IoStatus TierImpl::Store(SlotIndex slot, const std::byte* page) {
  return StoreImpl(slot, page, nullptr);
}

IoStatus TierImpl::StoreIf(SlotIndex slot, const std::byte* page, Version expected) {
  return StoreImpl(slot, page, &expected);
}

IoStatus TierImpl::StoreImpl(SlotIndex slot, const std::byte* page, const Version* expected) {
  assert(slot < table_->slots());
  SlotRecord next;
  const std::optional<std::uint64_t> fill = SameFilled(page);
  if (fill) {
    next.state = SlotState::kSameFilled;
    next.fill = *fill;
  } else {
    const Compressed compressed = CompressPage(page);
    const EntryRef ref = AllocateOrWait(compressed.bytes.size());
    if (ref == kNoEntry) {
      Count(Counter::reject_no_space);
      // The old bytes of a whole page are stale now; those around a partial write are not.
      if (expected == nullptr) ForgetStale(slot);
      return IoStatus::kNoSpace;
    }
    std::memcpy(pool_->Bytes(ref), compressed.bytes.data(), compressed.bytes.size());
    pool_->At(ref)->stored_unix_s = UnixSeconds();
    next.state = SlotState::kLocal;
    next.codec = static_cast<std::uint8_t>(compressed.codec) & 3;
    next.length = static_cast<std::uint16_t>(compressed.bytes.size());
    next.object = {ref, PageChecksum(slot, compressed.codec, compressed.bytes)};
  }

  bool overwrote;
  {
    const auto lock = table_->Lock(slot);
    const SlotRecord& old = table_->Get(slot);
    if (expected != nullptr && old.version != *expected) {
      if (next.InPool()) pool_->Free(next.object.entry);
      return IoStatus::kChanged;
    }
    overwrote = old.state != SlotState::kEmpty;
    next.version = old.version + 1;
    if (next.InPool()) {
      pool_->At(next.object.entry)->slot.store(slot, std::memory_order_relaxed);
      lru_.AddHot(next.object.entry);
    }
    Replace(slot, next);
  }
  Count(Counter::stores);
  if (overwrote) Count(Counter::overwrites);
  if (fill) Count(Counter::stores_same_filled);
  if (next.InPool() && static_cast<Codec>(next.codec) == Codec::kRaw) Count(Counter::stores_raw);
  if (next.InPool()) shrinker_.AfterAllocation();
  return IoStatus::kOk;
}

EntryRef TierImpl::AllocateOrWait(std::size_t object_bytes) {
  EntryRef ref = pool_->Allocate(object_bytes);
  if (ref != kNoEntry) return ref;
  Count(Counter::pool_limit_hit);
  Shrinker::Waiter waiter(&shrinker_);
  // The first try after announcing ourselves: what was freed in between is not missed.
  while ((ref = pool_->Allocate(object_bytes)) == kNoEntry) {
    if (!waiter.WaitForRoom()) return kNoEntry;
  }
  return ref;
}

void TierImpl::ForgetStale(SlotIndex slot) {
  const auto lock = table_->Lock(slot);
  const SlotRecord& old = table_->Get(slot);
  if (old.state != SlotState::kEmpty) Count(Counter::lost_failed_store);
  SlotRecord next;
  next.version = old.version + 1;
  Replace(slot, next);
}

Tier::LoadResult TierImpl::Load(SlotIndex slot, std::byte* out) {
  Version version;
  return LoadVersion(slot, out, &version);
}

Tier::LoadResult TierImpl::LoadVersion(SlotIndex slot, std::byte* out, Version* version) {
  assert(slot < table_->slots());
  const auto lock = table_->Lock(slot);
  const SlotRecord& record = table_->Get(slot);
  *version = record.version;
  switch (record.state) {
    case SlotState::kEmpty:
      FillPage(out, 0);
      Count(Counter::loads_empty);
      return LoadResult::kDone;
    case SlotState::kSameFilled:
      FillPage(out, record.fill);
      Count(Counter::loads_same_filled);
      return LoadResult::kDone;
    case SlotState::kRemote:
      return LoadResult::kRemote;
    case SlotState::kLocal:
    case SlotState::kWriting:
      break;
  }
  const PageObject object{slot,
                          record.version,
                          static_cast<Codec>(record.codec),
                          record.object.checksum,
                          0,
                          {pool_->Bytes(record.object.entry), record.length}};
  if (!Verify(object, out)) return LoadResult::kIoError;
  if (!record.referenced) {
    SlotRecord read = record;
    read.referenced = 1;
    table_->Set(slot, read);
  }
  Count(Counter::loads_local);
  return LoadResult::kDone;
}

bool TierImpl::Verify(const PageObject& object, std::byte* out) {
  if (PageChecksum(object.slot, object.codec, object.bytes) != object.checksum) {
    Count(Counter::fail_checksum);
    return false;
  }
  if (!DecompressPage(object.codec, object.bytes, out)) {
    Count(Counter::fail_decompress);
    return false;
  }
  return true;
}

void TierImpl::Invalidate(SlotIndex first, std::uint64_t count) {
  assert(first + count <= table_->slots());
  std::uint64_t trimmed = 0;
  for (std::uint64_t index = first; index < first + count; ++index) {
    const auto slot = static_cast<SlotIndex>(index);
    const auto lock = table_->Lock(slot);
    const SlotRecord& old = table_->Get(slot);
    if (old.state == SlotState::kEmpty) continue;
    SlotRecord next;
    next.version = old.version + 1;
    Replace(slot, next);
    ++trimmed;
  }
  Count(Counter::trims, trimmed);
}

bool TierImpl::StartManualWriteback(std::uint64_t bytes) { return shrinker_.StartManual(bytes); }

void TierImpl::CancelManualWriteback() { shrinker_.CancelManual(); }

Tier::ManualWriteback TierImpl::ManualWritebackProgress() const {
  return shrinker_.ManualProgress();
}

TierStats TierImpl::Stats() const {
  TierStats stats;
  const auto pages = [this](SlotState state) {
    return pages_by_state_[static_cast<std::size_t>(state)].load(std::memory_order_relaxed);
  };
  stats.pool_limit_bytes = config_.pool_bytes_max;
  stats.pool_used_bytes =
      std::uint64_t{pool_->slab_count() - pool_->free_slabs()} * Pool::kSlabBytes;
  stats.pool_entry_bytes = pool_->entry_bytes();
  stats.pool_payload_bytes = payload_bytes_.load(std::memory_order_relaxed);
  stats.metadata_bytes = table_->bytes();
  stats.pages_same_filled = pages(SlotState::kSameFilled);
  stats.pages_local = pages(SlotState::kLocal);
  stats.pages_writing = pages(SlotState::kWriting);
  stats.pages_remote = pages(SlotState::kRemote);
  stats.pages_raw = pages_raw_.load(std::memory_order_relaxed);
  stats.shrinking = shrinker_.shrinking();
  for (std::size_t i = 0; i < kCounterCount; ++i) {
    stats.counters[i] = counters_[i].load(std::memory_order_relaxed);
  }
  return stats;
}

}  // namespace farswap::tier
