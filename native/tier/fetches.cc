#include "tier/fetches.h"

#include <array>
#include <bit>
#include <chrono>
#include <cstring>

#include "base/check.h"
#include "tier/bundle.h"
#include "tier/codec.h"

namespace farswap::tier {
namespace {

using Clock = std::chrono::steady_clock;

// What counts a damaged object.
using Damage = std::optional<Counter>;

// Turns an object into its page.
inline Damage Verify(const Object& object, std::byte* out) {
  if (PageChecksum(object.key, object.codec, object.bytes) != object.checksum) {
    return Counter::fail_checksum;
  }
  if (!DecompressPage(object.codec, object.bytes, out)) return Counter::decompress_fail;
  return std::nullopt;
}

// A bundle as a server sent it; its pages are in memory of the thread, until its next bundle.
struct FetchedBundle {
  bool Has(std::size_t member, Version version) const {
    return pages && view.Has(member) && view.versions[member] == version;
  }
  BundleView view;
  std::optional<BundlePages> pages;
  Damage damage;
};

FetchedBundle OpenBundle(const Object& object) {
  FetchedBundle bundle;
  if (PageChecksum(object.key, Codec::kBundle, object.bytes) != object.checksum) {
    bundle.damage = Counter::fail_checksum;
    return bundle;
  }
  if (const auto view = ParseBundle(object.bytes)) {
    bundle.view = *view;
    bundle.pages = DecompressBundle(*view);
  }
  if (!bundle.pages) bundle.damage = Counter::decompress_fail;
  return bundle;
}

}  // namespace

// Pages of a bundle, in memory of the thread.
struct Fetches::Neighbours {
  Fetches* fetches;
  SlotIndex first;  // of the bundle
  BundleView view;  // without its frame
  BundlePages pages;
  BundleMembers taken;  // by the fetch: not to be adopted
  std::uint32_t stored_boot_s;
};

// --- Pages that are here ------------------------------------------------------------------------

PageDevice::LoadResult Fetches::Load(SlotIndex slot, std::byte* out, SlotRecord* seen) {
  FARSWAP_CHECK(slot < pages_.slots());
  // Reading the clock costs a tenth of a load.
  constexpr std::uint32_t kSampled = 16;
  thread_local std::uint32_t loads = 0;
  const bool sampled = ++loads % kSampled == 0;
  const auto began = sampled ? Clock::now() : Clock::time_point{};

  const auto lock = pages_.Lock(slot);
  const SlotRecord& record = pages_.Get(slot);
  Group& group = pages_.groups().Of(record);
  switch (record.state) {
    case SlotState::kEmpty:
      FillPage(out, 0);
      group.Count(Counter::loads_empty);
      break;
    case SlotState::kSameFilled:
      FillPage(out, record.fill);
      group.Count(Counter::loads_same_filled);
      break;
    case SlotState::kRemote:
      if (seen != nullptr) *seen = record;
      return PageDevice::LoadResult::kRemote;
    case SlotState::kLocal:
    case SlotState::kClean:
    case SlotState::kWriting: {
      if (const Damage damage = Verify(pages_.ObjectOf(slot), out)) {
        group.Count(*damage);
        if (record.state != SlotState::kClean) return PageDevice::LoadResult::kIoError;
        // Servers have the page: it is remote again.
        pages_.DropClean(slot);
        if (seen != nullptr) *seen = record;
        return PageDevice::LoadResult::kRemote;
      }
      if (!record.referenced) pages_.NoteRead(slot);
      group.Count(Counter::loads_local);
      break;
    }
  }
  if (sampled) group.local_latency.Add(Clock::now() - began);
  return PageDevice::LoadResult::kDone;
}

// --- A fetch ------------------------------------------------------------------------------------

void Fetches::Start(PageFetch* fetch) {
  FARSWAP_CHECK(fetch->page_count >= 1 && fetch->page_count <= PageFetch::kPagesMax);
  fetch->fetches_ = this;
  fetch->status_ = IoStatus::kOk;
  fetch->waited_ = false;
  fetch->again_ = ~std::uint64_t{0} >> (PageFetch::kPagesMax - fetch->page_count);
  Continue(fetch);
}

void Fetches::Continue(PageFetch* fetch) {
  fetch->count = 0;
  for (std::uint64_t left = fetch->again_; left != 0; left &= left - 1) {
    const auto page = static_cast<std::size_t>(std::countr_zero(left));
    SlotRecord record;
    switch (Load(fetch->page_slots[page], fetch->page_outputs[page], &record)) {
      case PageDevice::LoadResult::kDone:
        break;
      case PageDevice::LoadResult::kIoError:
        fetch->status_ = IoStatus::kIoError;
        break;
      case PageDevice::LoadResult::kRemote:
        Ask(fetch, page, record);
        break;
    }
  }
  fetch->again_ = 0;
  if (fetch->count > 0) {
    if (!fetch->waited_) fetch->asked_at_ = Clock::now();
    fetch->waited_ = true;
    remote_.Get(fetch);
  } else {
    if (fetch->waited_) CountWait(*fetch);
    fetch->OnFetched(fetch->status_);
  }
  AdoptNeighbours();
}

// Pages that are in one bundle ask for it once.
void Fetches::Ask(PageFetch* fetch, std::size_t page, const SlotRecord& record) {
  const SlotIndex slot = fetch->page_slots[page];
  const ObjectKey key = record.in_bundle ? BundleKeyOf(slot) : slot;
  std::size_t index = fetch->count;
  while (record.in_bundle && index > 0 && fetch->keys[index - 1] != key) --index;
  const bool asked = record.in_bundle && index > 0;
  if (asked) {
    --index;
  } else {
    index = fetch->count++;
    fetch->keys[index] = key;
  }
  fetch->wanted_[page] = record.version;
  fetch->next_[page] = asked ? fetch->first_[index] : PageFetch::kNoPage;
  fetch->first_[index] = static_cast<std::uint8_t>(page);
}

Verdict PageFetch::OnObject(std::size_t index, const Object& object) {
  stored_boot_s_ = object.stored_boot_s;
  return fetches_->Judge(this, index, object);
}

// Pages that are settled leave the list of those that wait for the object.
Verdict Fetches::Judge(PageFetch* fetch, std::size_t index, const Object& object) {
  // Checksums are checked against what was asked for, not what the server names.
  Object asked = object;
  asked.key = fetch->keys[index];
  std::optional<FetchedBundle> bundle;
  if (IsBundleKey(asked.key)) {
    AdoptNeighbours();  // of the bundle before, whose memory this one's pages need
    bundle = OpenBundle(asked);
  }
  BundleMembers taken = 0;
  for (std::uint8_t* link = &fetch->first_[index]; *link != PageFetch::kNoPage;) {
    const std::uint8_t page = *link;
    const std::size_t member = fetch->page_slots[page] % kBundleSlots;
    std::byte* const out = fetch->page_outputs[page];
    Damage damage = bundle ? bundle->damage : std::nullopt;
    bool intact = false;
    if (bundle) {
      intact = bundle->Has(member, fetch->wanted_[page]);
      if (intact) std::memcpy(out, bundle->pages->Page(member), kPageBytes);
      taken = static_cast<BundleMembers>(taken | 1u << member);
    } else if (SlotVersionOf(asked.version) == fetch->wanted_[page]) {
      damage = Verify(asked, out);
      intact = !damage;
    }
    const bool settled = Settle(fetch, page, intact, damage);
    if (settled) {
      *link = fetch->next_[page];
    } else {
      link = &fetch->next_[page];
    }
  }
  if (bundle && bundle->pages && bundle->view.members != taken) {
    bundle->view.frame = {};  // not valid by then
    PutOff(
        {this, FirstSlotOf(asked.key), bundle->view, *bundle->pages, taken, object.stored_boot_s});
  }
  const bool complete = fetch->first_[index] == PageFetch::kNoPage;
  return complete ? Verdict::kAccept : Verdict::kTryAnother;
}

// Whether the page needs no other replica: it was fetched, or its slot has changed.
bool Fetches::Settle(PageFetch* fetch, std::size_t page, bool intact,
                     std::optional<Counter> damage) {
  const SlotIndex slot = fetch->page_slots[page];
  const auto lock = pages_.Lock(slot);
  const SlotRecord& record = pages_.Get(slot);
  Group& group = pages_.groups().Of(record);
  if (damage) group.Count(*damage);
  if (!intact) return HasChanged(fetch, page, record, &group);
  group.Count(Counter::loads_remote);
  group.remote_latency.Add(Clock::now() - fetch->asked_at_);
  return true;
}

// Whether the slot has changed since its page was asked for: then it is read again. The slot's lock
// is held.
bool Fetches::HasChanged(PageFetch* fetch, std::size_t page, const SlotRecord& record,
                         Group* group) {
  if (record.state == SlotState::kRemote && record.version == fetch->wanted_[page]) return false;
  fetch->again_ |= std::uint64_t{1} << page;
  group->Count(Counter::fetch_retries);
  return true;
}

void PageFetch::OnMissing(std::size_t index, GetResult why) { fetches_->GiveUp(this, index, why); }

void Fetches::GiveUp(PageFetch* fetch, std::size_t index, GetResult why) {
  for (std::uint8_t page = fetch->first_[index]; page != PageFetch::kNoPage;
       page = fetch->next_[page]) {
    const SlotIndex slot = fetch->page_slots[page];
    const auto lock = pages_.Lock(slot);
    const SlotRecord& record = pages_.Get(slot);
    Group& group = pages_.groups().Of(record);
    if (HasChanged(fetch, page, record, &group)) continue;
    const bool unavailable = why == GetResult::kUnavailable;
    group.Count(unavailable ? Counter::fetch_unavailable : Counter::fetch_missing);
    fetch->status_ = IoStatus::kIoError;
  }
}

void PageFetch::OnGetDone() { fetches_->Continue(this); }

// A fetch is one wait of its reader, however many pages it has.
void Fetches::CountWait(const PageFetch& fetch) {
  const SlotIndex slot = fetch.page_slots[0];
  const auto waited = Clock::now() - fetch.asked_at_;
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(waited).count();
  const auto lock = pages_.Lock(slot);
  Group& group = pages_.groups().Of(pages_.Get(slot));
  group.Count(Counter::remote_wait_us, static_cast<std::uint64_t>(us));
}

// --- Neighbours ---------------------------------------------------------------------------------

thread_local std::optional<Fetches::Neighbours> Fetches::put_off_;

void Fetches::PutOff(const Neighbours& neighbours) {
  put_off_ = neighbours;
  const std::lock_guard lock(mutex_);
  ++adoptions_;
}

// Those that this thread has put off, of any tier.
void Fetches::AdoptNeighbours() {
  if (!put_off_) return;
  Fetches* const fetches = put_off_->fetches;
  fetches->AdoptAll(*put_off_);
  put_off_.reset();
  // Notified under the lock: the tier may be destroyed as soon as it is released.
  const std::lock_guard lock(fetches->mutex_);
  if (--fetches->adoptions_ == 0) fetches->adopted_.notify_all();
}

void Fetches::WaitForAdoptions() {
  std::unique_lock lock(mutex_);
  adopted_.wait(lock, [this] { return adoptions_ == 0; });
}

void Fetches::AdoptAll(const Neighbours& of) {
  for (std::size_t member = 0; member < kBundleSlots; ++member) {
    if (!of.view.Has(member) || (of.taken >> member & 1) != 0) continue;
    const auto slot = static_cast<SlotIndex>(of.first + member);
    if (slot >= pages_.slots()) return;
    if (!Adopt(slot, of.view.versions[member], of.pages.Page(member), of.stored_boot_s)) return;
  }
}

// False: there is no room, nor for others.
bool Fetches::Adopt(SlotIndex slot, Version version, const std::byte* page,
                    std::uint32_t stored_boot_s) {
  const auto fetched = [&](const SlotRecord& record) {
    return record.state == SlotState::kRemote && record.in_bundle && record.version == version;
  };
  Compressor compressor;
  {
    const auto lock = pages_.Lock(slot);
    const SlotRecord& record = pages_.Get(slot);
    if (!fetched(record)) return true;
    const GroupIndex group = pages_.groups().Resolve(record.group);
    if (!MayAdopt(group)) return false;
    compressor = pages_.groups().CompressorOf(group);
  }
  const Compressed compressed = CompressPage(page, compressor);
  const EntryRef entry = pages_.pool().Allocate(compressed.bytes.size());
  if (entry == kNoEntry) return false;
  const std::uint32_t checksum = PageChecksum(slot, compressed.codec, compressed.bytes);
  const SlotRecord filled = pages_.Fill(entry, compressed, checksum, stored_boot_s);
  const auto lock = pages_.Lock(slot);
  if (fetched(pages_.Get(slot))) {
    pages_.AdoptClean(slot, filled);
  } else {
    pages_.Free(entry);
  }
  return true;
}

bool Fetches::MayAdopt(GroupIndex group) const {
  const std::uint32_t percent = pages_.accept_threshold_percent();
  return pages_.pool().entry_bytes() < pages_.pool().capacity_bytes() * percent / 100 &&
         pages_.pool().free_slabs() > 0 && pages_.groups().MayWriteBack(group) &&
         pages_.groups().OverLimit(group, kPageBytes, percent) == Groups::kNoGroup;
}

// --- Reads that wait ----------------------------------------------------------------------------

namespace {

class WaitedFetch final : public PageFetch {
 public:
  WaitedFetch(SlotIndex slot, std::byte* out) {
    page_count = 1;
    page_slots[0] = slot;
    page_outputs[0] = out;
  }

  void OnFetched(IoStatus status) override {
    // Notified under the lock: the waiter may destroy this as soon as it sees `outcome_`.
    std::lock_guard lock(mutex_);
    outcome_ = status;
    changed_.notify_one();
  }

  IoStatus Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return outcome_.has_value(); });
    return *outcome_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<IoStatus> outcome_;
};

}  // namespace

Explanation Fetches::Explain(SlotIndex slot) {
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
  Start(&fetch);
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
