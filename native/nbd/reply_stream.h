// Everything that is sent on one connection.
//
//   connection's thread ── batch of replies ───────────────────────┐
//          ▲                                                       ▼
//          │ eventfd: queue is stuck              one sender at a time ──▶ socket
//          │                                                       ▲
//   completion (fetch done, page stored) ── parked requests ── queue
//
// A parked request is a READ of pages that were on memory servers, or a WRITE of pages that waited
// for room. Its last page completes on a thread of the RemoteStore or the tier, which serves all
// connections and must not wait for one client. The socket's sender is chosen under a small mutex
// that is never held across a system call:
//
//   - A completion appends its request to the queue. Without a sender it becomes the sender and
//     sends the queue without blocking. What the socket does not take stays queued ("stuck"), and
//     an eventfd wakes the connection's thread, which sends it, blocking.
//   - The connection's thread waits until the sender ends (which does not block), becomes the
//     sender, sends the queue and then its batch, blocking, and the queue again until it is empty.
//   - A thread that appends while another sends leaves the queue to that one: a sender ends only
//     with an empty queue or a stuck one.
//
// A reply that was sent in part stays at the head of the queue, so nothing gets between its bytes.
// After a failed send (the client is gone) replies are dropped as if they had been sent.
//
// Parked requests, their pages, fetches and stores come from fixed pools, those of writes apart
// from those of reads. Parking allocates nothing; while a pool is empty the connection's thread
// reads no request that needs it. parked_write.cc has the writes.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>

#include "base/memory.h"
#include "base/result.h"
#include "nbd/wire.h"
#include "tier/page_device.h"

namespace farswap::nbd {

/// The error of the reply, by the outcome of an operation of the tier.
WireError ErrorOf(tier::IoStatus status);

class ReplyStream;

/// A READ with remote pages, or a WRITE whose pages wait for room. The connection's thread fills
/// and submits it.
struct ParkedRequest {
  /// 128 KiB: in one shard or in two neighbours.
  static constexpr std::size_t kPagesMax = 32;

  std::uint64_t cookie = 0;
  std::size_t page_count = 0;  // of the reply's data; a WRITE has none
  std::array<std::byte*, kPagesMax> pages;

 private:
  friend class ReplyStream;
  // Under the stream's mutex:
  std::int64_t parts_left_ = 0;  // fetches or stores; may be below zero until it is submitted
  bool submitted_ = false;       // all parts are known
  bool parked_ = false;          // counts as parked
  bool dropped_ = false;         // is not answered
  tier::IoStatus status_ = tier::IoStatus::kOk;
  std::size_t sent_bytes_ = 0;           // the sender's
  ParkedRequest* next_ = nullptr;        // in the queue or the free list
  ParkedRequest** free_list_ = nullptr;  // where it returns
};

/// A fetch of pages of one read.
class ReadFetch final : public tier::PageFetch {
 public:
  void OnFetched(tier::IoStatus status) override;

 private:
  friend class ReplyStream;
  ReplyStream* stream_ = nullptr;
  ParkedRequest* read_ = nullptr;  // nullptr: a large read's
  ReadFetch* next_ = nullptr;      // in the free list
};

/// A store of one page of a WRITE.
class ParkedStore final : public tier::PendingStore {
 public:
  using PendingStore::PendingStore;
  void OnStored(tier::IoStatus status) override;

 private:
  friend class ReplyStream;
  ReplyStream* stream_ = nullptr;
  ParkedRequest* write_ = nullptr;
  ParkedStore* next_ = nullptr;  // in the free list
};

class ReplyStream {
 public:
  static constexpr std::size_t kParkedReads = 128;
  static constexpr std::size_t kParkedPages = 256;
  static constexpr std::size_t kFetches = kParkedReads + 16;
  static constexpr std::size_t kParkedWrites = 128;
  static constexpr std::size_t kParkedStores = 512;  // pages of parked writes

  /// Borrows the socket. Raises the counter for each parked request that ends in an error.
  static Result<std::unique_ptr<ReplyStream>> Create(int socket,
                                                     std::atomic<std::uint64_t>* errors);
  /// No request may be parked.
  ~ReplyStream();
  ReplyStream(const ReplyStream&) = delete;
  ReplyStream& operator=(const ReplyStream&) = delete;

  // Only for the connection's thread.

  /// Sends the queue, then `batch`. Blocks until the client has received them, or shutdown(2).
  /// False if the client is gone.
  bool Send(std::span<const std::byte> batch);

  /// A read with `page_count` pages of memory, or nullptr if the pools are empty.
  ParkedRequest* TryPark(std::size_t page_count);
  /// The same, waiting for reads to return what it needs.
  ParkedRequest* Park(std::size_t page_count);
  /// Returns a read that was not submitted.
  void Unpark(ParkedRequest* read);

  /// An empty fetch for `read` (nullptr: for a large read), for Submit(). Waits for a free one:
  /// never hold more than two that are not submitted.
  ReadFetch* TakeFetch(ParkedRequest* read);
  /// Starts the fetches of one parked read, which is answered after the last of them.
  void Submit(tier::PageDevice* tier, ParkedRequest* read, std::span<ReadFetch* const> fetches);
  /// Starts a fetch of the large read, which has too many pages to be parked. One at a time.
  void SubmitLarge(tier::PageDevice* tier, ReadFetch* fetch);
  /// Waits for all fetches of the large read, and returns their worst status.
  tier::IoStatus WaitLarge();

  /// Takes a request and a store to park a page of a WRITE, each if it is nullptr and there is one.
  /// The next WRITE uses what is left.
  void TakeForWrite(ParkedRequest** write, ParkedStore** store);
  /// The same, waiting for both.
  void AwaitForWrite(ParkedRequest** write, ParkedStore** store);
  /// Sets whose page the store has, before it goes to the tier.
  static void Assign(ParkedStore* store, ParkedRequest* write) { store->write_ = write; }
  /// The tier has parked the store, and may have finished it already.
  void Parked(ParkedRequest* write);
  /// The worst outcome of the write's parked pages so far.
  tier::IoStatus StatusOf(const ParkedRequest* write);
  /// The payload is complete, and `status` is that of the pages that were not parked. The reply is
  /// sent after the last parked page.
  void SubmitWrite(ParkedRequest* write, std::uint64_t cookie, tier::IoStatus status);
  /// Cancels the stores that wait in the tier. Their writes are not answered, nor is the one
  /// whose payload is not complete (nullptr: none). No page of the connection can be stored any
  /// more when WaitUntilIdle() has returned.
  void CancelWrites(tier::PageDevice* tier, ParkedRequest* incomplete);

  /// Whether any request is parked. If not, only the client can make work for the thread.
  bool AnyParked() const { return parked_.load(std::memory_order_acquire) > 0; }
  /// Readable when the queue is stuck: call Send({}).
  int wake_fd() const { return wake_fd_; }
  /// Waits until no request is parked and no completion runs, sending what is stuck. Once the
  /// writes are cancelled, the deadline of the fetches and the client's reading bound it.
  void WaitUntilIdle();

 private:
  friend class ReadFetch;
  friend class ParkedStore;
  explicit ReplyStream(int socket, std::atomic<std::uint64_t>* errors)
      : socket_(socket), errors_(errors) {}

  enum class SendOutcome : std::uint8_t { kSent, kWouldBlock, kGone };

  void OnFetchDone(ReadFetch* fetch, tier::IoStatus status);
  void OnStoreDone(ParkedStore* store, tier::IoStatus status);
  void FinishPart(std::unique_lock<std::mutex>& lock, ParkedRequest* request);
  static ParkedRequest* TakeRequest(ParkedRequest** free_list);
  void FreeStore(ParkedStore* store);
  bool HasRoom(std::size_t page_count) const;
  void BecomeSender(std::unique_lock<std::mutex>& lock);
  void StopSending();
  void SendQueue(std::unique_lock<std::mutex>& lock, bool blocking);
  SendOutcome SendParked(ParkedRequest* request, bool blocking);
  bool SendBytes(std::span<const std::byte> bytes);
  void Release(ParkedRequest* request);
  void Wake();

  const int socket_;
  int wake_fd_ = -1;
  std::atomic<std::uint64_t>* const errors_;
  std::unique_ptr<Memory> page_memory_;
  std::unique_ptr<Memory> store_memory_;
  std::unique_ptr<std::array<ParkedRequest, kParkedReads + kParkedWrites>> requests_;
  std::unique_ptr<std::array<ReadFetch, kFetches>> fetches_;
  std::deque<ParkedStore> stores_;

  // Never held with another lock, or across a system call or a call of the tier. A completion's
  // last access to the stream is its unlock, which WaitUntilIdle() relies on.
  std::mutex mutex_;
  std::condition_variable changed_;  // any of what follows
  bool sending_ = false;             // there is a sender
  bool stuck_ = false;               // the queue waits for the connection's thread
  bool gone_ = false;                // a send has failed
  ParkedRequest* queue_head_ = nullptr;
  ParkedRequest* queue_tail_ = nullptr;
  ParkedRequest* free_reads_ = nullptr;
  ParkedRequest* free_writes_ = nullptr;
  ParkedStore* free_stores_ = nullptr;
  ReadFetch* free_fetches_ = nullptr;
  std::array<std::byte*, kParkedPages> free_pages_;
  std::size_t free_page_count_ = 0;
  std::size_t large_left_ = 0;
  tier::IoStatus large_status_ = tier::IoStatus::kOk;
  // Written under the mutex; only the connection's thread raises it, and may rely on a zero that it
  // reads without.
  std::atomic<std::size_t> parked_{0};
};

}  // namespace farswap::nbd
