// Neighbours on their way to the servers as one bundle (bundle.h).
//
// With a cold entry go those neighbours in its bundle that are about as cold and of the same group.
// Only where no page of the bundle's slots is in a bundle already: so a bundle's object is replaced
// as a whole or not at all, and in_bundle in a slot's record says enough. All of a bundle's slots
// have one lock. Objects of a bundle differ in their versions, which count what was ever sent; that
// servers may hold one that nobody needs any more is known by bundle, and looked at again before it
// is discarded.
//
//   meanwhile                                       what happens
//   a member is overwritten while it is written     it leaves the bundle; the others go on
//   all are                                         the bundle is discarded when its write is over
//   another bundle of the same slots is sent          it has a higher version: servers keep it
//   a discard is overtaken by that bundle             the discard's version is lower
//   the write fails                                 members are local again; it is discarded, since
//                                                   a server may have it
#include <algorithm>
#include <cstring>

#include "tier/bundle.h"
#include "tier/shrinker.h"

namespace farswap::tier {
namespace {

// Of zstd, unless recompression says otherwise: higher ones take longer and gain hardly anything.
constexpr int kBundleLevel = 1;

}  // namespace

Outcome Shrinker::SetPacking(bool on) {
  std::unique_lock lock(mutex_);
  if (on && bundle_writer_ == nullptr) {
    lock.unlock();  // stores take it, and memory may be what they make
    auto made = BundleWriter::Create();
    if (!made.ok()) return made.error();
    lock.lock();
    if (bundle_writer_ == nullptr) bundle_writer_ = std::move(made.value());
  }
  packing_.store(on, std::memory_order_release);
  return std::monostate{};
}

// Takes a local entry and its neighbours into the batch, by slot, as many as there is room for. The
// slot's lock is held.
void Shrinker::TakeWithNeighbours(Batch* batch, const Request& request, SlotIndex slot) {
  const std::uint32_t now = config_.boot_seconds();
  const auto age_s = [&](const SlotRecord& record) {
    return pages_.pool().At(record.object.entry)->AgeSeconds(now);
  };
  const GroupIndex index = groups_.Resolve(pages_.Get(slot).group);
  const std::uint32_t old_s = std::max(request.older_than_s, age_s(pages_.Get(slot)) / 2);
  const std::size_t first = batch->count;
  for (std::uint64_t i = slot / kBundleSlots * kBundleSlots; i < pages_.BundleEnd(slot); ++i) {
    if (batch->looked_at() >= request.pages_max || !groups_.MayWriteBack(index)) break;
    const auto neighbour = static_cast<SlotIndex>(i);
    const SlotRecord& record = pages_.Get(neighbour);
    const bool cold = record.state == SlotState::kLocal && !record.referenced &&
                      groups_.Resolve(record.group) == index && age_s(record) >= old_s;
    if (neighbour == slot || (cold && pages_.Intact(neighbour))) Take(batch, request, neighbour);
  }
  const std::size_t taken = batch->count - first;
  if (taken > 1) batch->runs[batch->run_count++] = {first, taken};
}

// False: they go one by one.
bool Shrinker::PackRun(Batch* batch, const Batch::Run& run, PageObject* bundle) {
  const std::span<const PageObject> pages(&batch->pages[run.first], run.count);
  {
    // Pages of another group may have made a bundle of these slots since, in the same batch.
    const auto lock = pages_.Lock(pages[0].slot);
    if (pages_.AnyInBundle(pages[0].slot)) return false;
  }
  std::size_t apart_bytes = 0;
  bundle_writer_->Begin();
  bundle->stored_boot_s = 0;
  for (const PageObject& page : pages) {
    if (!bundle_writer_->Add(page.slot % kBundleSlots, SlotVersionOf(page.version), page.codec,
                             page.bytes)) {
      return false;
    }
    apart_bytes += page.bytes.size();
    bundle->stored_boot_s = std::max(bundle->stored_boot_s, page.stored_boot_s);
  }
  // Recompression one by one makes two thirds of them and is cheaper to read.
  const int level = recompress_level_.load(std::memory_order_relaxed);
  const auto packed = bundle_writer_->Finish(level > 0 ? level : kBundleLevel, apart_bytes * 3 / 4);
  if (packed.empty()) return false;
  std::byte* const copy = batch->arena + run.first * kPageBytes;
  std::memcpy(copy, packed.data(), packed.size());
  bundle->slot = BundleKeyOf(pages[0].slot);
  bundle->version = pages_.JoinBundle(pages);
  bundle->codec = Codec::kBundle;
  bundle->bytes = {copy, packed.size()};
  bundle->checksum = PageChecksum(bundle->slot, bundle->codec, bundle->bytes);
  Group& root = groups_.At(kRootGroup);
  root.Count(Counter::packed, run.count);
  root.Count(Counter::packed_saved_bytes, apart_bytes - packed.size());
  return true;
}

}  // namespace farswap::tier
