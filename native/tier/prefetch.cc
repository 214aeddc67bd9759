// Pages that came with a bundle of which another page was read: they are taken into the pool as
// clean entries, which the shrinker drops without I/O, and first since they begin at the cold end.
// Only while the pool and the page's group are under their accept thresholds, and after the read
// was answered, on the thread that answered it.
#include "tier/codec.h"
#include "tier/tier_impl.h"

namespace farswap::tier {

thread_local std::optional<TierImpl::Prefetch> TierImpl::put_off_;

void TierImpl::PrefetchLater(const PageObject& object, const FetchedBundle& bundle,
                             BundleMembers taken) {
  if (bundle.view.members == taken) return;
  {
    std::lock_guard lock(prefetch_mutex_);
    ++prefetches_;
  }
  put_off_ = {this, FirstSlotOf(object.slot), bundle, taken, object.stored_boot_s};
  put_off_->bundle.view.frame = {};  // is gone by then
}

void TierImpl::PrefetchNow() {
  if (!put_off_) return;
  TierImpl* const tier = put_off_->tier;
  tier->PrefetchBundle(*put_off_);
  put_off_.reset();
  // Notified under the lock: the tier may be gone as soon as it is released.
  std::lock_guard lock(tier->prefetch_mutex_);
  if (--tier->prefetches_ == 0) tier->prefetches_done_.notify_all();
}

void TierImpl::WaitForPrefetches() {
  std::unique_lock lock(prefetch_mutex_);
  prefetches_done_.wait(lock, [this] { return prefetches_ == 0; });
}

void TierImpl::PrefetchBundle(const Prefetch& prefetch) {
  const BundleView& view = prefetch.bundle.view;
  for (std::size_t member = 0; member < kBundleSlots; ++member) {
    if (!view.Has(member) || (prefetch.taken >> member & 1) != 0) continue;
    const auto slot = static_cast<SlotIndex>(prefetch.first + member);
    if (slot >= pages_.slots()) return;
    if (!PrefetchPage(slot, view.versions[member], prefetch.bundle.pages->Page(member),
                      prefetch.stored_boot_s)) {
      return;
    }
  }
}

// False: there is no room, also for others.
bool TierImpl::PrefetchPage(SlotIndex slot, Version version, const std::byte* page,
                            std::uint32_t stored_boot_s) {
  const auto wanted = [&](const SlotRecord& record) {
    return record.state == SlotState::kRemote && record.in_bundle && record.version == version;
  };
  Compressor compressor;
  {
    const auto lock = pages_.Lock(slot);
    const SlotRecord& record = pages_.Get(slot);
    if (!wanted(record)) return true;
    const GroupIndex group = pages_.groups().Resolve(record.group);
    if (!MayPrefetch(group)) return false;
    compressor = pages_.groups().CompressorOf(group);
  }
  const Compressed compressed = CompressPage(page, compressor);
  const EntryRef ref = pages_.pool().Allocate(compressed.bytes.size());
  if (ref == kNoEntry) return false;
  const std::uint32_t checksum = PageChecksum(slot, compressed.codec, compressed.bytes);
  const SlotRecord filled = pages_.Fill(ref, compressed, checksum, stored_boot_s);
  const auto lock = pages_.Lock(slot);
  if (wanted(pages_.Get(slot))) {
    pages_.AdoptClean(slot, filled);
  } else {
    pages_.Free(ref);
  }
  return true;
}

bool TierImpl::MayPrefetch(GroupIndex group) const {
  const std::uint32_t percent = shrinker_.accept_threshold_percent();
  return pages_.pool().entry_bytes() < pages_.pool().capacity_bytes() * percent / 100 &&
         pages_.pool().free_slabs() > 0 && pages_.groups().MayWriteBack(group) &&
         pages_.groups().OverLimit(group, kPageBytes, percent) == tier::Groups::kNoGroup;
}

}  // namespace farswap::tier
