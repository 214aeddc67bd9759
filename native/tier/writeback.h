// Writeback: moves cold entries of the pool to the memory servers, a batch of copies at a time.
// Which entries, how many and when, the shrinker decides (shrinker.h).
//
//   Begin() ──▶ TakeColdest(), for each group ──▶ Send() ──▶ RemoteStore::Put()
//     ▲          record: local → writing           Packer          │
//     │                                                            ▼
//   free batch ◀── Listener::OnAnswered() ◀── Finish(): record: writing → remote, or local again
//
// Since copies are sent, an entry can be read, overwritten and moved while it is written: the
// answer counts only if the slot still is in state writing, with the version that was sent.
//
// Threads: one thread makes and sends batches and discards, and holds no lock when it does. Answers
// come on threads of the RemoteStore.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/memory.h"
#include "tier/config.h"
#include "tier/packer.h"
#include "tier/pages.h"
#include "tier/remote_store.h"
#include "tier/stale.h"

namespace farswap::tier {

/// What an attempt to move entries did. kBlocked: there are some, but not now.
enum class WorkResult : std::uint8_t { kWorked, kBlocked, kNothingToDo };

class Writeback final {
 public:
  /// What became of the pages of a batch.
  struct Answer {
    Counter cause;
    std::size_t pages = 0;  // that were sent
    std::size_t acked_pages = 0;
    std::uint64_t acked_bytes = 0;  // of their objects
    bool server_full = false;
  };
  class Listener {
   public:
    /// A batch is free again. Called without a lock, on a thread of the RemoteStore.
    virtual void OnAnswered(const Answer& answer) = 0;

   protected:
    ~Listener() = default;
  };

  /// Which entries to send.
  struct Request {
    Counter cause = Counter::writeback_started_limit;
    GroupIndex group = kRootGroup;
    bool descendants = true;  // of the group as well
    std::uint32_t older_than_s = 0;
    std::size_t pages_max = PutBatch::kObjectsMax;
    bool spares_count = false;                    // spared pages count to pages_max
    std::uint64_t bytes_max = ~std::uint64_t{0};  // of the pool, about
  };

  class Batch final : public PutBatch {
   public:
    void OnPutDone() override { writeback->Finish(this); }
    std::size_t looked_at() const { return count + spared; }
    bool full() const {
      return looked_at() >= request.pages_max || entry_bytes + dropped_bytes >= request.bytes_max;
    }

    Writeback* writeback = nullptr;
    std::byte* arena = nullptr;
    Request request;
    std::size_t page_count = 0;       // in `count` objects
    std::size_t spared = 0;           // if the request counts them
    std::uint64_t entry_bytes = 0;    // freed by acknowledgements
    std::uint64_t dropped_bytes = 0;  // of clean entries, freed at once
    std::array<Packer::Run, kObjectsMax / 2> runs;
    std::size_t run_count = 0;
  };

  /// Memory for the copies of all batches, for the constructor.
  static Result<std::unique_ptr<Memory>> CreateArenas();

  /// All outlive it.
  Writeback(const TierConfig& config, RemoteStore* remote, Pages* pages, StaleObjects* stale,
            Packer* packer, std::unique_ptr<Memory> arenas);
  ~Writeback() { WaitForBatches(); }

  /// Set before any batch is sent.
  void ReportTo(Listener* listener) { listener_ = listener; }

  /// Whether the group has entries for the request.
  bool HasEntries(GroupIndex index, const Request& request) const;
  /// An empty batch. nullptr: all are in flight, no server is connected, or one has just failed.
  Batch* Begin(const Request& request);
  /// Adds up to `pages` of the group's coldest entries that were not read since they were stored or
  /// last spared, with neighbours where the packer is on. Drops clean entries on the way.
  void TakeColdest(Batch* batch, GroupIndex group, std::size_t pages);
  /// Sends the batch, or frees it if it is empty.
  WorkResult Send(Batch* batch);

  /// Sends discards of all stale objects. Objects whose server takes none now stay marked.
  void SendDiscards();

  /// Entry bytes that acknowledgements will free.
  std::uint64_t in_flight_bytes() const { return in_flight_bytes_.load(); }
  /// How long to wait before the next attempt while servers are away or fail.
  std::chrono::milliseconds retry_delay() const;
  /// Returns when the RemoteStore has given back every batch.
  void WaitForBatches();

 private:
  static constexpr std::size_t kBatches = 4;
  // After a batch that failed, nothing is sent for this long, twice as long each time.
  static constexpr std::chrono::milliseconds kBackoffMin{20};
  static constexpr std::chrono::milliseconds kBackoffMax{500};

  enum class Taken : std::uint8_t { kYes, kNotThis, kNoMore };
  Taken Isolate(Batch* batch, SlotIndex slot, EntryRef entry);
  void Take(Batch* batch, SlotIndex slot, std::uint32_t boot_s);
  void TakeWithNeighbours(Batch* batch, SlotIndex slot, std::uint32_t boot_s);
  void Finish(Batch* batch);

  const TierConfig& config_;
  RemoteStore& remote_;
  Pages& pages_;
  Groups& groups_;
  StaleObjects& stale_;
  Packer& packer_;
  Listener* listener_ = nullptr;
  const std::unique_ptr<Memory> arenas_;
  std::vector<DiscardItem> discards_;  // of the thread: collected, not sent yet
  std::atomic<std::uint64_t> in_flight_bytes_{0};

  mutable std::mutex mutex_;  // guards all below; nothing is locked while it is held
  std::condition_variable idle_;
  std::array<Batch, kBatches> batches_;
  std::vector<Batch*> free_batches_;
  std::size_t unanswered_ = 0;  // batches whose answer the listener has not seen
  std::chrono::steady_clock::time_point retry_at_{};  // no Put() before, after a failed one
  std::chrono::milliseconds backoff_{0};
};

}  // namespace farswap::tier
