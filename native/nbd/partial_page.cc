#include "nbd/partial_page.h"

#include <array>
#include <cassert>
#include <cstring>

namespace farswap::nbd {
namespace {

/// Each attempt fails only if another writer of the slot succeeded, so this many in a row is no
/// race but something broken, and an error is better than a thread that spins.
constexpr int kAttemptsMax = 10'000;

}  // namespace

tier::IoStatus WritePartialPage(tier::PageDevice* tier, tier::SlotIndex slot,
                                std::size_t first_byte, const std::byte* source, std::size_t length,
                                const std::function<void()>& before_waiting) {
  assert(first_byte + length <= tier::kPageBytes);
  std::array<std::byte, tier::kPageBytes> page;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    tier::Version version = 0;
    tier::IoStatus status = tier->LoadWait(slot, page.data(), &version);
    if (status != tier::IoStatus::kOk) return status;
    if (source != nullptr) {
      std::memcpy(page.data() + first_byte, source, length);
    } else {
      std::memset(page.data() + first_byte, 0, length);
    }
    status = tier->TryStore(slot, page.data(), version, nullptr);
    if (status == tier::IoStatus::kPending) {
      before_waiting();
      status = tier->StoreIf(slot, page.data(), version);
    }
    if (status != tier::IoStatus::kVersionMismatch) return status;
  }
  return tier::IoStatus::kIoError;
}

}  // namespace farswap::nbd
