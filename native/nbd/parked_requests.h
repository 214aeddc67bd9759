// The work of parked requests: fetches of remote pages and stores that wait for room. The requests
// themselves are in the connection's state; this ends with the process, and a successor starts it
// again.
//
// A part that is done stays here until the holder of the connection's mutex takes it. The thread
// that completes it becomes the holder if the mutex is free, and answers. Otherwise the holder
// takes the part before or after it unlocks:
//
//   completion                       holder
//   lock(queue), note the part       unlock(connection)
//   try to lock(connection)          lock(queue), any part noted? then lock(connection) again
//   unlock(queue)                    unlock(queue), wait
//
// Both look under the queue's mutex: if the completion comes first there, the holder finds its
// part; if it comes second, the connection's mutex was free before.
//
// Everything comes from fixed pools, and parking allocates nothing. Pages of reads are fetched into
// memory of their own, and copied to the reply buffer when all are there.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>

#include "base/bits.h"
#include "base/memory.h"
#include "base/result.h"
#include "nbd/connection_state.h"
#include "tier/page_device.h"

namespace farswap::nbd {

class ParkedRequests {
 public:
  /// The connection, for threads that complete parts.
  class Answerer {
   public:
    /// Locks the connection's mutex if it is free.
    virtual bool TryHold() = 0;
    /// Answers what is done, and unlocks. False: the connection's thread will go on.
    virtual bool AnswerAndRelease() = 0;

   protected:
    ~Answerer() = default;
  };
  /// Every READ fits.
  static constexpr std::size_t kPages = kPayloadBytesMax / tier::kPageBytes;
  static constexpr std::size_t kFetches = ConnectionState::kParkedReads + 16;

  struct DoneParts {
    Bits<ConnectionState::kParkedReads> reads;
    Bits<ConnectionState::kParkedStores> stores;

    bool Any() const { return reads.Any() || stores.Any(); }
  };

  static Result<std::unique_ptr<ParkedRequests>> Create(tier::PageDevice* tier, Answerer* answerer);
  ParkedRequests(const ParkedRequests&) = delete;
  ParkedRequests& operator=(const ParkedRequests&) = delete;

  // For the holder.

  /// False: it must wait until other reads are done.
  bool HasRoomFor(std::size_t page_count);
  /// Starts a read that has room. Its first pages are at `loaded`.
  void StartRead(std::size_t index, const ParkedRead& parked, std::span<const std::byte> loaded);
  tier::IoStatus StatusOfRead(std::size_t index) const { return reads_[index].status; }
  /// Its pages, to kPageBytes each, and frees them. Of a read that failed: frees them.
  void TakeRead(std::size_t index, std::byte* to);

  tier::PendingStore* store(std::size_t index) { return &stores_[index]; }
  tier::IoStatus StatusOfStore(std::size_t index) const { return stores_[index].status; }
  /// One that does not come from the tier.
  void NoteStore(std::size_t index, tier::IoStatus status);

  void TakeDone(DoneParts* to);
  bool AnyDone();
  /// Waits until any part is done.
  void AwaitDone();
  /// Waits until no completion runs.
  void AwaitQuiet();

 private:
  static constexpr std::uint16_t kNoPage = kPages;

  struct Read {
    std::uint16_t first_page = kNoPage;
    std::size_t fetches_left = 0;  // under the mutex once any is started
    tier::IoStatus status = tier::IoStatus::kOk;
  };
  struct Fetch final : tier::PageFetch {
    void OnFetched(tier::IoStatus status) override { parked->OnFetchDone(this, status); }
    ParkedRequests* parked = nullptr;
    std::size_t read = 0;
    Fetch* next = nullptr;  // free, or of the same read
  };
  struct Store final : tier::PendingStore {
    using PendingStore::PendingStore;
    void OnStored(tier::IoStatus result) override { parked->OnStoreDone(index, result); }
    ParkedRequests* parked = nullptr;
    std::size_t index = 0;
    tier::IoStatus status = tier::IoStatus::kOk;
  };

  ParkedRequests(tier::PageDevice* tier, Answerer* answerer) : tier_(tier), answerer_(answerer) {}

  static std::size_t FetchesOf(std::size_t page_count) {
    return page_count / tier::PageFetch::kPagesMax + 2;
  }
  std::byte* Page(std::size_t page) const { return pages_->data() + page * tier::kPageBytes; }
  Fetch* TakeFetch(std::size_t read);
  void OnFetchDone(Fetch* fetch, tier::IoStatus status);
  void OnStoreDone(std::size_t index, tier::IoStatus status);
  void Answer(std::unique_lock<std::mutex>& lock);

  tier::PageDevice* const tier_;
  Answerer* const answerer_;
  std::unique_ptr<Memory> pages_;
  std::unique_ptr<Memory> store_memory_;
  std::unique_ptr<std::array<Fetch, kFetches>> fetches_;
  std::deque<Store> stores_;
  std::array<Read, ConnectionState::kParkedReads> reads_;
  std::array<std::uint16_t, kPages> next_page_;  // free, or of the same read
  std::uint16_t free_page_ = 0;
  std::size_t free_page_count_ = kPages;

  // Locked before the connection's mutex, which is only tried then. Never held across a system call
  // or a call of the tier. A completion's last access is its unlock, which AwaitQuiet() relies on.
  std::mutex mutex_;
  std::condition_variable changed_;
  DoneParts done_;
  Fetch* free_fetches_ = nullptr;
  std::size_t free_fetch_count_ = 0;
  std::size_t completions_ = 0;  // under way
};

}  // namespace farswap::nbd
