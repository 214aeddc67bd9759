// What a frontend needs of a tier: operations on pages, none of which waits for room or for the
// network. Tier (tier.h) adds what its operators need.
//
// Threads: any number may call. A store or load of one slot is atomic against every other operation
// on that slot; requests of several pages are not atomic as a whole.
//
// A store that finds no room waits for it and delays no other request: see TryStore(). Until it
// ends the slot keeps its old page. Of stores and trims of one slot the last one wins: the end of a
// later one supersedes a waiting store, which then counts as stored.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "tier/page.h"
#include "tier/remote_store.h"

namespace farswap::tier {

/// Outcome of an operation on a page. The caller replies with the NBD error.
enum class IoStatus : std::uint8_t {
  kOk,
  kNoSpace,  // ENOSPC: no room in the pool or at a limit, and no writeback for store_wait
  kIoError,  // EIO: the page exists, but no intact copy could be read
  kPending,  // TryStore() only, no outcome yet: the store waits for room
};

/// A store that waits for room in the tier, see PageDevice::TryStore(). The object and its memory
/// must live until OnStored(), which may destroy or reuse them, or until it was cancelled.
class PendingStore {
 public:
  /// Borrows kPageBytes.
  explicit PendingStore(std::byte* memory) : memory_(memory) {}
  PendingStore(const PendingStore&) = delete;
  PendingStore& operator=(const PendingStore&) = delete;

  /// Called once, unless cancelled. Must not block; runs on a thread that serves others.
  virtual void OnStored(IoStatus status) = 0;

 protected:
  ~PendingStore() = default;

 private:
  friend class StoreQueue;
  static constexpr std::uint16_t kNotInLine = 0xffff;

  std::byte* const memory_;
  // The object to be stored, in memory_. Set before the store enters a line.
  SlotIndex slot_ = 0;
  Codec codec_ = Codec::kRaw;
  std::size_t object_bytes_ = 0;
  std::uint32_t checksum_ = 0;
  std::optional<std::uint32_t> sequence_;  // of the slot's word, if it has one
  // Guarded by the queue's mutex.
  std::uint16_t line_ = kNotInLine;
  PendingStore* previous_ = nullptr;
  PendingStore* next_ = nullptr;
  PendingStore* next_in_bucket_ = nullptr;
};

class PageFetch;

class PageDevice {
 public:
  /// No fetch may be under way.
  virtual ~PageDevice() = default;

  /// Keeps a copy of the page, without waiting.
  ///
  /// kPending: there is no room now. The page was copied and is stored when there is, in the order
  /// in which stores began to wait at the same limit; store->OnStored() gets the outcome, possibly
  /// before this returns. Without a `store` nothing was done.
  ///
  /// kNoSpace, here or there, empties the slot, so that stale bytes never come back.
  virtual IoStatus TryStore(SlotIndex slot, const std::byte* page, PendingStore* store) = 0;

  /// Takes back a waiting store; the slot keeps its old page. False: it no longer waits, and
  /// OnStored() was called or will be.
  virtual bool CancelStore(PendingStore* store) = 0;

  enum class LoadResult : std::uint8_t { kDone, kRemote, kIoError };
  /// Copies the slot's page to out[kPageBytes] if it is local, same-filled or empty (zeros).
  /// kRemote: out means nothing, use Fetch(). Never blocks on the network.
  virtual LoadResult Load(SlotIndex slot, std::byte* out) = 0;

  /// Reads pages wherever they are, without blocking: fetch->OnFetched() is called once, possibly
  /// before this returns, possibly on a thread of the RemoteStore.
  virtual void Fetch(PageFetch* fetch) = 0;

  /// Drops the pages of [first, first + count): they read as zeros. TRIM and WRITE_ZEROES.
  virtual void Invalidate(SlotIndex first, std::uint64_t count) = 0;

  virtual std::uint64_t slots() const = 0;
};

/// Up to 64 pages of one shard to be read, remote or not. The caller fills `page_count`,
/// `page_slots` and `page_outputs` (each kPageBytes, used by the fetch alone until OnFetched()).
/// The object must live until OnFetched(), which may destroy or reuse it.
class PageFetch : private RemoteFetch {
 public:
  static constexpr std::size_t kPagesMax = RemoteFetch::kKeysMax;

  /// Called exactly once. Must not block; may run on a thread that serves others.
  virtual void OnFetched(IoStatus status) = 0;

  std::size_t page_count = 0;
  std::array<SlotIndex, kPagesMax> page_slots;
  std::array<std::byte*, kPagesMax> page_outputs;

 private:
  friend class Fetches;
  Verdict OnObject(std::size_t index, const Object& object) final;
  void OnMissing(std::size_t index, GetResult why) final;
  void OnGetDone() final;

  class Fetches* fetches_ = nullptr;
  static constexpr std::uint8_t kNoPage = 0xff;
  std::array<std::uint8_t, kPagesMax> first_;  // of the pages that wait for keys[i], or kNoPage
  std::array<std::uint8_t, kPagesMax> next_;   // the next page that waits for the same, or kNoPage
  std::array<Version, kPagesMax> wanted_;      // of each page, when it was asked for
  std::uint64_t again_ = 0;                    // pages that changed while they were fetched
  std::uint32_t stored_boot_s_ = 0;            // of the page fetched last
  bool waited_ = false;                        // some page had to be asked for
  std::chrono::steady_clock::time_point asked_at_{};
  IoStatus status_ = IoStatus::kOk;
};

}  // namespace farswap::tier
