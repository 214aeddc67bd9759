// Reads of pages that may be remote. A page that is overwritten, trimmed or written back anew while
// it is fetched is read again from wherever it is then; a fetched page of the very version that was
// asked for is good whatever happened to its slot meanwhile, since the read began before that.
#include <cassert>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>

#include "tier/bundle.h"
#include "tier/codec.h"
#include "tier/tier_impl.h"

namespace farswap::tier {

void PageFetch::OnPage(std::size_t index, GetResult result, const PageObject& object) {
  stored_boot_s_ = object.stored_boot_s;
  tier_->AcceptFetched(this, index, result, object);
}

void PageFetch::OnGetDone() { tier_->ContinueFetch(this); }

void TierImpl::Fetch(PageFetch* fetch) {
  assert(fetch->page_count >= 1 && fetch->page_count <= PageFetch::kPagesMax);
  fetch->tier_ = this;
  fetch->status_ = IoStatus::kOk;
  fetch->waited_ = false;
  fetch->again_ = ~std::uint64_t{0} >> (PageFetch::kPagesMax - fetch->page_count);
  ContinueFetch(fetch);
}

void TierImpl::ContinueFetch(PageFetch* fetch) {
  fetch->count = 0;
  for (std::uint64_t left = fetch->again_; left != 0; left &= left - 1) {
    const auto page = static_cast<std::size_t>(__builtin_ctzll(left));
    const SlotIndex slot = fetch->page_slots[page];
    SlotRecord record;
    switch (LoadRecord(slot, fetch->page_outputs[page], &record)) {
      case LoadResult::kDone:
        break;
      case LoadResult::kIoError:
        fetch->status_ = IoStatus::kIoError;
        break;
      case LoadResult::kRemote:
        AskFor(fetch, page, record);
        break;
    }
  }
  fetch->again_ = 0;
  if (fetch->count == 0) {
    if (fetch->waited_) CountWait(*fetch);
    fetch->OnFetched(fetch->status_);
    PrefetchNow();
    return;
  }
  if (!fetch->waited_) fetch->asked_at_ = std::chrono::steady_clock::now();
  fetch->waited_ = true;
  remote_->Get(fetch);
  PrefetchNow();
}

// Neighbours that are in one bundle ask for it once.
void TierImpl::AskFor(PageFetch* fetch, std::size_t page, const SlotRecord& record) {
  const SlotIndex slot = fetch->page_slots[page];
  const ObjectKey key = record.in_bundle ? BundleKeyOf(slot) : slot;
  std::size_t index = fetch->count;
  while (record.in_bundle && index > 0 && fetch->slots[index - 1] != key) --index;
  const bool asked = record.in_bundle && index > 0;
  if (asked) {
    --index;
  } else {
    index = fetch->count++;
    fetch->slots[index] = key;
  }
  fetch->wanted_[page] = record.version;
  fetch->next_[page] = asked ? fetch->first_[index] : PageFetch::kNoPage;
  fetch->first_[index] = static_cast<std::uint8_t>(page);
}

// A fetch is one wait of whoever reads, however many pages it has.
void TierImpl::CountWait(const PageFetch& fetch) {
  const SlotIndex slot = fetch.page_slots[0];
  const auto waited = std::chrono::steady_clock::now() - fetch.asked_at_;
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(waited).count();
  const auto lock = pages_.Lock(slot);
  pages_.groups()
      .Of(pages_.Get(slot))
      .Count(Counter::remote_wait_us, static_cast<std::uint64_t>(us));
}

void TierImpl::AcceptFetched(PageFetch* fetch, std::size_t index, GetResult result,
                             const PageObject& object) {
  // Checksums are checked against what was asked for, not what the server names.
  PageObject asked = object;
  asked.slot = fetch->slots[index];
  std::optional<FetchedBundle> bundle;
  if (IsBundleKey(asked.slot) && result == GetResult::kFound) bundle = OpenBundle(asked);
  BundleMembers taken = 0;
  for (std::uint8_t page = fetch->first_[index]; page != PageFetch::kNoPage;
       page = fetch->next_[page]) {
    const std::size_t member = fetch->page_slots[page] % kBundleSlots;
    std::byte* const out = fetch->page_outputs[page];
    Damage damage = bundle ? bundle->damage : Damage::kNone;
    bool intact = false;
    if (bundle) {
      intact = bundle->Has(member, fetch->wanted_[page]);
      if (intact) std::memcpy(out, bundle->pages->Page(member), kPageBytes);
      taken = static_cast<BundleMembers>(taken | 1u << member);
    } else if (result == GetResult::kFound &&
               SlotVersionOf(asked.version) == fetch->wanted_[page]) {
      damage = Verify(asked, out);
      intact = damage == Damage::kNone;
    }
    SettlePage(fetch, page, result, intact, damage);
  }
  if (bundle && bundle->pages) PrefetchLater(asked, *bundle, taken);
}

TierImpl::FetchedBundle TierImpl::OpenBundle(const PageObject& object) {
  PrefetchNow();  // out of the memory that this bundle's pages need
  FetchedBundle bundle;
  if (PageChecksum(object.slot, Codec::kBundle, object.bytes) != object.checksum) {
    bundle.damage = Damage::kChecksum;
    return bundle;
  }
  if (const auto view = ParseBundle(object.bytes)) {
    bundle.view = *view;
    bundle.pages = DecompressBundle(*view);
  }
  if (!bundle.pages) bundle.damage = Damage::kNoPage;
  return bundle;
}

// The fetched page is the one that was asked for, or cannot be had, or is to be looked for again
// because the slot has changed.
void TierImpl::SettlePage(PageFetch* fetch, std::size_t page, GetResult result, bool intact,
                          Damage damage) {
  const SlotIndex slot = fetch->page_slots[page];
  const auto lock = pages_.Lock(slot);
  const SlotRecord& record = pages_.Get(slot);
  Group& group = pages_.groups().Of(record);
  CountDamage(damage, &group);
  if (intact) {
    group.Count(Counter::loads_remote);
    group.remote_latency.Add(std::chrono::steady_clock::now() - fetch->asked_at_);
    return;
  }
  if (record.state != SlotState::kRemote || record.version != fetch->wanted_[page]) {
    fetch->again_ |= std::uint64_t{1} << page;
    group.Count(Counter::fetch_retries);
    return;
  }
  const bool unavailable = result == GetResult::kUnavailable;
  group.Count(unavailable ? Counter::fetch_unavailable : Counter::fetch_missing);
  fetch->status_ = IoStatus::kIoError;
}

namespace {

// One page, waited for.
class WaitedFetch final : public PageFetch {
 public:
  WaitedFetch(SlotIndex slot, std::byte* out) {
    page_count = 1;
    page_slots[0] = slot;
    page_outputs[0] = out;
  }

  void OnFetched(IoStatus status) override {
    // Notified under the lock: the waiter may destroy this as soon as it sees `done_`.
    std::lock_guard lock(mutex_);
    outcome_ = status;
    done_ = true;
    changed_.notify_one();
  }

  IoStatus Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    return outcome_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  IoStatus outcome_ = IoStatus::kOk;
};

}  // namespace

IoStatus TierImpl::LoadWait(SlotIndex slot, std::byte* out, Version* version) {
  SlotRecord record;
  const LoadResult result = LoadRecord(slot, out, &record);
  *version = record.version;
  if (result == LoadResult::kDone) return IoStatus::kOk;
  if (result == LoadResult::kIoError) return IoStatus::kIoError;
  // May read a page that is newer than the version; then the slot's is higher, for good.
  WaitedFetch fetch(slot, out);
  Fetch(&fetch);
  return fetch.Wait();
}

Tier::Explanation TierImpl::Explain(SlotIndex slot) {
  SlotRecord record;
  Explanation explanation{};
  {
    const auto lock = pages_.Lock(slot);
    record = pages_.Get(slot);
    explanation.cgroup = pages_.groups().Of(record).id;
    if (record.InPool()) {
      const Entry& entry = *pages_.pool().At(record.object.entry);
      const std::uint32_t now = config_.boot_seconds();
      explanation.stored_boot_s = now - entry.AgeSeconds(now);
      explanation.size_bytes = static_cast<std::uint32_t>(entry.object_bytes());
    }
  }
  explanation.state = SlotStateName(record.state);
  explanation.version = record.version;
  explanation.referenced = record.referenced != 0;
  if (record.state == SlotState::kSameFilled) explanation.fill = record.fill;
  if (record.state == SlotState::kRemote) explanation.size_bytes = record.away.length;
  if (explanation.size_bytes > 0) explanation.codec = static_cast<Codec>(record.codec);
  std::array<std::byte, kPageBytes> page;
  WaitedFetch fetch(slot, page.data());
  Fetch(&fetch);
  explanation.verified = fetch.Wait() == IoStatus::kOk;
  if (record.state == SlotState::kRemote) explanation.stored_boot_s = fetch.stored_boot_s_;
  if (!explanation.verified) {
    const bool kept = record.state == SlotState::kRemote || record.state == SlotState::kClean;
    explanation.problem =
        kept ? "no memory server delivered the page intact" : "the page in the pool is damaged";
  }
  return explanation;
}

}  // namespace farswap::tier
