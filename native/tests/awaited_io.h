// Stores and fetches whose outcome a test waits for.
#pragma once

#include <array>
#include <cstring>
#include <vector>

#include "tier/page_device.h"
#include "waiter.h"

namespace farswap::tier {

using Page = std::array<std::byte, kPageBytes>;

struct StoreMemory {
  Page bytes;
};

class AwaitedStore final : private StoreMemory, public PendingStore, public Waiter<IoStatus> {
 public:
  AwaitedStore() : PendingStore(bytes.data()) {}
  void OnStored(IoStatus status) override { Set(status); }
};

class AwaitedFetch final : public PageFetch, public Waiter<IoStatus> {
 public:
  explicit AwaitedFetch(const std::vector<SlotIndex>& wanted) : pages(wanted.size()) {
    page_count = wanted.size();
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      page_slots[i] = wanted[i];
      page_outputs[i] = pages[i].data();
    }
  }
  void OnFetched(IoStatus status) override { Set(status); }

  std::vector<Page> pages;
};

/// TryStore(), and its outcome.
inline IoStatus StoreWait(PageDevice& tier, SlotIndex slot, const std::byte* page) {
  AwaitedStore store;
  const IoStatus status = tier.TryStore(slot, page, &store);
  return status == IoStatus::kPending ? store.Wait().value() : status;
}

/// The page, from pool or servers; zeros if it cannot be read.
inline IoStatus LoadWait(PageDevice& tier, SlotIndex slot, std::byte* out) {
  AwaitedFetch fetch({slot});
  tier.Fetch(&fetch);
  const IoStatus status = fetch.Wait().value();
  std::memcpy(out, fetch.pages[0].data(), kPageBytes);
  return status;
}

}  // namespace farswap::tier
