// Neighbours on their way to the servers as one unit (unit.h).
//
// With a cold entry go those neighbours in its unit that are about as cold and of the same group.
// Only where no page of the unit's slots is in a unit already: so a unit's object is replaced as a
// whole or not at all, and in_unit in a slot's record says enough. All of a unit's slots have one
// lock. Objects of a unit differ in their versions, which count what was ever sent; that servers
// may hold one that nobody needs any more is known by unit, and looked at again before it is
// discarded.
//
//   meanwhile                                       what happens
//   a member is overwritten while it is written     it leaves the unit; the others go on
//   all are                                         the unit is discarded when its write is over
//   another unit of the same slots is sent          it has a higher version: servers keep it
//   a discard is overtaken by that unit             the discard's version is lower
//   the write fails                                 members are local again; it is discarded, since
//                                                   a server may have it
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "tier/tier_impl.h"
#include "tier/unit.h"

namespace farswap::tier {
namespace {

// Of zstd, unless recompression says otherwise: higher ones take longer and gain hardly anything.
constexpr int kUnitLevel = 1;

}  // namespace

Outcome Shrinker::SetPacking(bool on) {
  std::unique_lock lock(mutex_);
  if (on && unit_writer_ == nullptr) {
    lock.unlock();  // stores take it, and memory may be what they make
    auto made = UnitWriter::Create();
    if (!made.ok()) return made.error();
    lock.lock();
    if (unit_writer_ == nullptr) unit_writer_ = std::move(made.value());
  }
  packing_.store(on, std::memory_order_release);
  return Unit{};
}

// Takes a local entry and its neighbours into the batch, by slot, as many as there is room for. The
// slot's lock is held, and the group of the page.
void Shrinker::TakeWithNeighbours(Batch* batch, const Request& request, SlotIndex slot,
                                  const Groups::Locked& group) {
  const SlotTable& table = *tier_->table_;
  const std::uint32_t now = tier_->config_.boot_seconds();
  const auto age_s = [&](const SlotRecord& record) {
    return tier_->pool_->At(record.object.entry)->AgeSeconds(now);
  };
  const GroupIndex index = Owner().Resolve(table.Get(slot).group);
  const std::uint32_t old_s = std::max(request.older_than_s, age_s(table.Get(slot)) / 2);
  const std::size_t first = batch->count;
  for (std::uint64_t i = slot / kUnitSlots * kUnitSlots; i < table.UnitEnd(slot); ++i) {
    if (batch->looked_at() >= request.pages_max || !Owner().MayWriteBack(index)) break;
    const auto neighbour = static_cast<SlotIndex>(i);
    const SlotRecord& record = table.Get(neighbour);
    const bool cold = record.state == SlotState::kLocal && !record.referenced &&
                      Owner().Resolve(record.group) == index && age_s(record) >= old_s;
    if (neighbour == slot || (cold && tier_->EntryIntact(neighbour)))
      Take(batch, request, neighbour, group);
  }
  const std::size_t taken = batch->count - first;
  if (taken > 1) batch->runs[batch->run_count++] = {first, taken};
}

// False: they go one by one.
bool Shrinker::PackRun(Batch* batch, const Batch::Run& run, PageObject* unit) {
  const std::span<const PageObject> pages(&batch->pages[run.first], run.count);
  {
    // Pages of another group may have made a unit of these slots since, in the same batch.
    const auto lock = tier_->table_->Lock(pages[0].slot);
    if (tier_->table_->AnyInUnit(pages[0].slot)) return false;
  }
  std::size_t apart_bytes = 0;
  unit_writer_->Begin();
  unit->stored_boot_s = 0;
  for (const PageObject& page : pages) {
    if (!unit_writer_->Add(page.slot % kUnitSlots, SlotVersionOf(page.version), page.codec,
                           page.bytes)) {
      return false;
    }
    apart_bytes += page.bytes.size();
    unit->stored_boot_s = std::max(unit->stored_boot_s, page.stored_boot_s);
  }
  // Recompression one by one makes two thirds of them and is cheaper to read.
  const int level = recompress_level_.load(std::memory_order_relaxed);
  const auto packed = unit_writer_->Finish(level > 0 ? level : kUnitLevel, apart_bytes * 3 / 4);
  if (packed.empty()) return false;
  std::byte* const copy = batch->arena + run.first * kPageBytes;
  std::memcpy(copy, packed.data(), packed.size());
  unit->slot = UnitKeyOf(pages[0].slot);
  unit->version = ++unit_version_;
  unit->codec = Codec::kUnit;
  unit->bytes = {copy, packed.size()};
  unit->checksum = PageChecksum(unit->slot, unit->codec, unit->bytes);
  MarkUnit(*batch, run);
  Group& root = Owner().At(kRootGroup);
  root.Count(Counter::packed, run.count);
  root.Count(Counter::packed_saved_bytes, apart_bytes - packed.size());
  return true;
}

// What was overwritten since it was taken is not in the unit that is sent.
void Shrinker::MarkUnit(const Batch& batch, const Batch::Run& run) {
  SlotTable& table = *tier_->table_;
  const auto lock = table.Lock(batch.pages[run.first].slot);
  for (std::size_t i = run.first; i < run.first + run.count; ++i) {
    const PageObject& page = batch.pages[i];
    SlotRecord record = table.Get(page.slot);
    if (record.state != SlotState::kWriting) continue;
    if (record.version != SlotVersionOf(page.version)) continue;
    record.in_unit = 1;
    table.Set(page.slot, record);
  }
}

// The number of pages that are the server's now.
std::size_t Shrinker::FinishUnit(const PageObject& unit, PutResult result) {
  const auto view = ParseUnit(unit.bytes);
  const SlotIndex first = FirstSlotOf(unit.slot);
  const SlotTable& table = *tier_->table_;
  std::size_t acked = 0;
  // Of the bytes sent each page has its share, the first one also what is left.
  const std::size_t share = unit.bytes.size() / view->count();
  std::size_t sent_bytes = unit.bytes.size() - share * (view->count() - 1);
  const auto lock = tier_->table_->Lock(first);
  for (std::size_t member = 0; member < kUnitSlots; ++member) {
    if (!view->Has(member)) continue;
    const auto slot = static_cast<SlotIndex>(first + member);
    const SlotRecord& record = table.Get(slot);
    if (record.state == SlotState::kWriting && record.in_unit &&
        record.version == view->versions[member]) {
      Settle(slot, result, std::exchange(sent_bytes, share), Codec::kZstd);
      acked += result == PutResult::kAcked ? 1 : 0;
    } else {
      Owner().Of(record).Count(Counter::writeback_raced);
    }
  }
  if (!table.AnyInUnit(first)) tier_->stale_.MarkBundle(first);
  return acked;
}

// Any unit of these slots that servers have is older than the next one that is sent. Where a newer
// one was sent since the mark, it is in the place of what was meant.
void Shrinker::CollectStaleUnits(const StaleObjects::Chunk& chunk) {
  for (std::uint32_t units = chunk.bundles; units != 0; units &= units - 1) {
    const auto unit = static_cast<SlotIndex>(std::countr_zero(units));
    const SlotIndex first = chunk.first + unit * kUnitSlots;
    const auto lock = tier_->table_->Lock(first);
    if (!tier_->table_->AnyInUnit(first)) discards_.push_back({UnitKeyOf(first), unit_version_});
  }
}

}  // namespace farswap::tier
