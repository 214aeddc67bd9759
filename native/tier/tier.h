// The local tier: a userspace zswap. Pages come in by Store(), are compressed and kept in a locked
// pool, are read by Load() and Fetch(), forgotten by Invalidate(); the shrinker moves the coldest
// to the RemoteStore. The slot table is the only truth about where a page is.
//
// Threads: any number may call the public methods. A store or load of one slot is atomic against
// every other operation on that slot; requests of several pages are not atomic as a whole.
// No method of the store path allocates memory, blocks in a system call under a lock, or logs.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "tier/counters.h"
#include "tier/page.h"
#include "tier/remote_store.h"

namespace farswap::tier {

struct TierConfig {
  std::uint64_t slots = 0;                      // size of the device in pages, 1..2^32-1
  std::uint64_t pool_bytes_max = 0;             // [tier] pool_limit; at least 4 MiB
  std::uint32_t accept_threshold_percent = 90;  // 1..100
  /// How long stores may go on failing to get pool memory before they are refused with kNoSpace:
  /// counted from the last moment the shrinker freed something.
  std::chrono::milliseconds store_wait{2000};
};

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

class Tier {
 public:
  /// `remote` must outlive the tier. Fails with a message when memory cannot be had or the config
  /// is out of range.
  static Result<std::unique_ptr<Tier>> Create(const TierConfig& config, RemoteStore* remote);
  /// No fetch may be under way.
  virtual ~Tier() = default;

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

  /// Where a slot's page is, for `slot explain`. Reads the page (also a remote one) to verify it.
  struct Explanation {
    const char* state;  // "empty", "same_filled", "local", "writing", "remote"
    Version version;
    Codec codec;
    std::uint32_t size_bytes;
    std::uint64_t fill;
    std::uint32_t stored_unix_s;  // 0: unknown
    bool referenced;
    bool verified;
    std::string problem;  // why not verified
  };
  virtual Explanation Explain(SlotIndex slot) = 0;

  /// Asks the shrinker to write back the coldest `bytes` of pages (uncompressed), whatever the pool
  /// holds. One job at a time: a second one is refused (false) until the first is finished.
  virtual bool StartManualWriteback(std::uint64_t bytes) = 0;
  virtual void CancelManualWriteback() = 0;
  struct ManualWriteback {
    std::uint64_t target_bytes;
    std::uint64_t written_bytes;  // of pages, acknowledged
    std::uint64_t sent_bytes;     // the same as compressed
    bool finished;
    const char* stopped_because;  // "" when the target was reached
  };
  virtual ManualWriteback ManualWritebackProgress() const = 0;

  /// Ends the shrinker: nothing is written back any more, and stores that find no room fail at
  /// once. Waits until the RemoteStore has given back every PutBatch. Idempotent; the destructor
  /// calls it.
  virtual void StopWriteback() = 0;

  virtual TierStats Stats() const = 0;
  virtual std::uint64_t slots() const = 0;
};

/// See Tier::Fetch(). The object must live until OnFetched(), which may destroy or reuse it.
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
  std::array<Version, kPagesMax> wanted_;       // of slots[i], when it was asked for
  std::array<std::uint8_t, kPagesMax> origin_;  // index in page_slots of slots[i]
  std::uint64_t again_ = 0;                     // pages that changed while they were fetched
  std::uint32_t stored_unix_s_ = 0;             // of the page fetched last
  IoStatus status_ = IoStatus::kOk;
};

}  // namespace farswap::tier
