#include "tier/packer.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace farswap::tier {
namespace {

// The zstd level unless recompression sets one: higher levels take longer and gain hardly anything.
constexpr int kBundleLevel = 1;

}  // namespace

Outcome Packer::SetPacking(bool on) {
  const std::lock_guard lock(mutex_);
  if (on && writer_ == nullptr) {
    auto made = BundleWriter::Create();
    if (!made.ok()) return made.error();
    writer_ = std::move(made.value());
  }
  packing_.store(on, std::memory_order_release);
  return std::monostate{};
}

void Packer::SetRecompression(const std::optional<Compressor>& compressor) {
  recompress_level_.store(compressor ? compressor->level : 0, std::memory_order_relaxed);
}

std::size_t Packer::Pack(std::span<Object> pages, std::span<const Run> runs, std::byte* arena) {
  std::size_t objects = 0;
  for (std::size_t next = 0; next < pages.size();) {
    std::byte* const copy = arena + next * kPageBytes;
    if (!runs.empty() && runs.front().first == next) {
      const std::size_t count = runs.front().count;
      runs = runs.subspan(1);
      Object bundle;
      if (PackRun(pages.subspan(next, count), copy, &bundle)) {
        pages[objects++] = bundle;
        next += count;
        continue;
      }
    }
    RecompressPage(&pages[next], copy);
    pages[objects++] = pages[next++];
  }
  return objects;
}

// False: the pages are sent one by one.
bool Packer::PackRun(std::span<const Object> pages, std::byte* copy, Object* bundle) {
  const SlotIndex slot = pages[0].key;
  {
    // The same batch may have a bundle of these slots with pages of another group.
    const auto lock = pages_.Lock(slot);
    if (pages_.AnyInBundle(slot)) return false;
  }
  std::size_t apart_bytes = 0;
  writer_->Begin();
  bundle->stored_boot_s = 0;
  for (const Object& page : pages) {
    if (!writer_->Add(page.key % kBundleSlots, SlotVersionOf(page.version), page.codec,
                      page.bytes)) {
      return false;
    }
    apart_bytes += page.bytes.size();
    bundle->stored_boot_s = std::max(bundle->stored_boot_s, page.stored_boot_s);
  }
  // Recompression one by one shrinks pages to two thirds, and such objects are cheaper to read.
  const int level = recompress_level_.load(std::memory_order_relaxed);
  const auto packed = writer_->Finish(level > 0 ? level : kBundleLevel, apart_bytes * 3 / 4);
  if (packed.empty()) return false;
  std::memcpy(copy, packed.data(), packed.size());
  bundle->key = BundleKeyOf(slot);
  bundle->version = pages_.JoinBundle(pages);
  bundle->codec = Codec::kBundle;
  bundle->bytes = {copy, packed.size()};
  bundle->checksum = PageChecksum(bundle->key, bundle->codec, bundle->bytes);
  Group& root = pages_.groups().At(kRootGroup);
  root.Count(Counter::packed, pages.size());
  root.Count(Counter::packed_saved_bytes, apart_bytes - packed.size());
  return true;
}

void Packer::RecompressPage(Object* page, std::byte* copy) {
  const int level = recompress_level_.load(std::memory_order_relaxed);
  if (level == 0) return;
  const auto smaller = Recompress(page->codec, page->bytes, level);
  if (!smaller) return;
  Group& root = pages_.groups().At(kRootGroup);
  root.Count(Counter::recompressed);
  root.Count(Counter::recompressed_saved_bytes, page->bytes.size() - smaller->bytes.size());
  std::memcpy(copy, smaller->bytes.data(), smaller->bytes.size());
  page->codec = smaller->codec;
  page->bytes = {copy, smaller->bytes.size()};
  page->checksum = PageChecksum(page->key, page->codec, page->bytes);
}

}  // namespace farswap::tier
