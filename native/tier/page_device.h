// What a frontend needs of a tier: operations on pages, none of which ever blocks on the network
// but LoadWait(). Tier (tier.h) adds what its operators need.
//
// Threads: any number may call. A store or load of one slot is atomic against every other operation
// on that slot; requests of several pages are not atomic as a whole.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "tier/page.h"
#include "tier/remote_store.h"

namespace farswap::tier {

/// Outcome of an operation on a page, to be told as an NBD error by the caller.
enum class IoStatus : std::uint8_t {
  kOk,
  kNoSpace,  // ENOSPC: pool full, and writeback made no progress for store_wait
  kIoError,  // EIO: the page exists, and cannot be had intact
  kChanged,  // StoreIf() only: somebody wrote the slot in between
};

/// Up to 64 pages of one shard to be read, some of which may be remote. The caller fills `slots`
/// and `outputs` (each kPageBytes, exclusively the fetch's until OnFetched) and `count`.
class PageFetch;

class PageDevice {
 public:
  /// No fetch may be under way.
  virtual ~PageDevice() = default;

  /// Keeps a copy of the page. kNoSpace also forgets what the slot held before, so that stale bytes
  /// can never come back.
  virtual IoStatus Store(SlotIndex slot, const std::byte* page) = 0;

  /// Like Store(), but only if the slot's version is still `expected` (from LoadWait()); otherwise
  /// kChanged and nothing is done. kNoSpace keeps what the slot holds. For read-modify-write.
  virtual IoStatus StoreIf(SlotIndex slot, const std::byte* page, Version expected) = 0;

  enum class LoadResult : std::uint8_t { kDone, kRemote, kIoError };
  /// Copies the slot's page to out[kPageBytes] if it is local, same-filled or empty (zeros).
  /// kRemote: out is untouched, use Fetch(). Never blocks on the network.
  virtual LoadResult Load(SlotIndex slot, std::byte* out) = 0;

  /// Reads pages wherever they are, without blocking: fetch->OnFetched() is called once, possibly
  /// before this returns, possibly on a thread of the RemoteStore.
  virtual void Fetch(PageFetch* fetch) = 0;

  /// Load(), waiting for a remote page; tells the version that was read, for StoreIf().
  virtual IoStatus LoadWait(SlotIndex slot, std::byte* out, Version* version) = 0;

  /// Forgets the pages of [first, first + count): they read as zeros. TRIM and WRITE_ZEROES.
  virtual void Invalidate(SlotIndex first, std::uint64_t count) = 0;

  virtual std::uint64_t slots() const = 0;
};

/// See PageDevice::Fetch(). The object must live until OnFetched(), which may destroy or reuse it.
class PageFetch : private RemoteFetch {
 public:
  static constexpr std::size_t kPagesMax = RemoteFetch::kSlotsMax;

  /// Called exactly once. Must not block; may run on a thread that serves others.
  virtual void OnFetched(IoStatus status) = 0;

  std::size_t page_count = 0;
  std::array<SlotIndex, kPagesMax> page_slots;
  std::array<std::byte*, kPagesMax> page_outputs;

 private:
  friend class TierImpl;
  void OnPage(std::size_t index, GetResult result, const PageObject& object) final;
  void OnGetDone() final;

  class TierImpl* tier_ = nullptr;
  static constexpr std::uint8_t kNoPage = 0xff;
  std::array<std::uint8_t, kPagesMax> first_;  // of the pages that are in slots[i]
  std::array<std::uint8_t, kPagesMax> next_;   // the next page that is in the same one, kNoPage
  std::array<Version, kPagesMax> wanted_;      // of each page, when it was asked for
  std::uint64_t again_ = 0;                    // pages that changed while they were fetched
  std::uint32_t stored_unix_s_ = 0;            // of the page fetched last
  bool waited_ = false;                        // some page had to be asked for
  std::chrono::steady_clock::time_point asked_at_{};
  IoStatus status_ = IoStatus::kOk;
};

}  // namespace farswap::tier
