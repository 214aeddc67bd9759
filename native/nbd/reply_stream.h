// Everything that is sent on one connection: batches of replies from the connection's own thread,
// and the replies of parked reads, whose pages were on memory servers.
//
// A parked read's last page arrives on a thread of the RemoteStore, which serves every connection
// and must never wait for one client. So the socket has at most one sender at a time, chosen under
// a small mutex that is never held across a system call:
//
//   - A completion appends its read to the queue. If nobody is sending it becomes the sender, and
//     sends the queue without blocking. What the socket does not take stays queued ("stuck"), and
//     the connection's thread is woken through an eventfd to send it, blocking.
//   - The connection's thread waits for the sender to finish (which does not block), becomes the
//     sender, sends the queue and then its batch, blocking, and again the queue until it is empty.
//   - Whoever appends while somebody sends leaves it to them: the sender gives up its office only
//     with an empty queue or a stuck one.
//
// A reply that was sent in part stays at the head of the queue, so that nothing gets between its
// bytes. After a failed send (the client is gone) replies are dropped as if they had been sent.
//
// Parked reads, their pages and their fetches come from fixed pools: parking allocates nothing, and
// when a pool is empty the connection's thread stops reading requests until something comes back.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "base/locked_mapping.h"
#include "base/result.h"
#include "nbd/wire.h"
#include "tier/page_device.h"

namespace farswap::nbd {

class ReplyStream;

/// A READ whose pages are not all here. Filled by the connection's thread, which submits it and
/// then forgets it.
struct ParkedRead {
  /// 128 KiB at any alignment; all of it lies in one shard or in two neighbours.
  static constexpr std::size_t kPagesMax = 33;

  std::uint64_t cookie = 0;
  std::uint32_t first_byte = 0;  // of the reply's data, in pages[0]
  std::uint32_t length = 0;
  std::size_t page_count = 0;
  std::array<std::byte*, kPagesMax> pages;

 private:
  friend class ReplyStream;
  std::size_t fetches_left_ = 0;  // under the stream's mutex
  tier::IoStatus status_ = tier::IoStatus::kOk;
  std::size_t sent_bytes_ = 0;  // the sender's
  ParkedRead* next_ = nullptr;  // in the queue or the free list
};

/// Some pages of one read, on their way from the memory servers.
class ReadFetch final : public tier::PageFetch {
 public:
  void OnFetched(tier::IoStatus status) override;

 private:
  friend class ReplyStream;
  ReplyStream* stream_ = nullptr;
  ParkedRead* read_ = nullptr;  // nullptr: a staged read's
  ReadFetch* next_ = nullptr;   // in the free list
};

class ReplyStream {
 public:
  static constexpr std::size_t kParkedReads = 128;
  static constexpr std::size_t kParkedPages = 256;
  static constexpr std::size_t kFetches = kParkedReads + 16;

  /// Borrows the socket. The counter is raised for every parked read that ends in an error.
  static Result<std::unique_ptr<ReplyStream>> Create(int socket,
                                                     std::atomic<std::uint64_t>* errors);
  /// Everything parked must have been waited for.
  ~ReplyStream();
  ReplyStream(const ReplyStream&) = delete;
  ReplyStream& operator=(const ReplyStream&) = delete;

  // All that follows is for the connection's thread alone.

  /// Sends the queue and then `batch`, waiting for the client as long as it takes; shutdown(2) ends
  /// it. False: the client is gone.
  bool Send(std::span<const std::byte> batch);

  /// A read with `page_count` pages of memory, or nullptr if the pools cannot provide it now.
  ParkedRead* TryPark(std::size_t page_count);
  /// The same, waiting until reads that are under way give back what it needs.
  ParkedRead* Park(std::size_t page_count);
  /// Gives back a read that was not submitted.
  void Unpark(ParkedRead* read);

  /// An empty fetch for `read` (nullptr: for the staged read), to be handed to Submit(). Waits for
  /// one to become free: never hold more than two that are not submitted.
  ReadFetch* TakeFetch(ParkedRead* read);
  /// Starts the fetches of one parked read; its reply is sent when the last of them is done.
  void Submit(tier::PageDevice* tier, ParkedRead* read, std::span<ReadFetch* const> fetches);
  /// Starts a fetch of the staged read.
  void SubmitStaged(tier::PageDevice* tier, ReadFetch* fetch);
  /// Waits for every fetch of the staged read; tells the worst of their outcomes.
  tier::IoStatus WaitStaged();

  /// Whether any read is parked: if not, nothing but the client can give the thread work.
  bool AnyParked() const { return parked_.load(std::memory_order_acquire) > 0; }
  /// Readable when there is something stuck that the thread must Send({}).
  int wake_fd() const { return wake_fd_; }
  /// Waits until no read is parked and no completion is on its way out of here, sending what is
  /// stuck. Bounded by the deadline of the fetches and by the client's reading.
  void WaitUntilIdle();

 private:
  friend class ReadFetch;
  explicit ReplyStream(int socket, std::atomic<std::uint64_t>* errors)
      : socket_(socket), errors_(errors) {}

  enum class SendOutcome : std::uint8_t { kSent, kWouldBlock, kGone };

  void OnFetchDone(ReadFetch* fetch, tier::IoStatus status);
  bool HasRoom(std::size_t page_count) const;
  void BecomeSender(std::unique_lock<std::mutex>& lock);
  void StopSending();
  void SendQueue(std::unique_lock<std::mutex>& lock, bool blocking);
  SendOutcome SendRead(ParkedRead* read, bool blocking);
  bool SendBytes(std::span<const std::byte> bytes);
  void Release(ParkedRead* read);
  void Wake();

  const int socket_;
  int wake_fd_ = -1;
  std::atomic<std::uint64_t>* const errors_;
  std::unique_ptr<LockedMapping> page_memory_;
  std::unique_ptr<std::array<ParkedRead, kParkedReads>> reads_;
  std::unique_ptr<std::array<ReadFetch, kFetches>> fetches_;

  // Taken alone, never across a system call or a call of the tier. A completion's last access to
  // the stream is its unlock, which WaitUntilIdle() relies on.
  std::mutex mutex_;
  std::condition_variable changed_;  // any of what follows
  bool sending_ = false;             // somebody is the sender
  bool stuck_ = false;               // the queue waits for the connection's thread
  bool gone_ = false;                // a send has failed
  ParkedRead* queue_head_ = nullptr;
  ParkedRead* queue_tail_ = nullptr;
  ParkedRead* free_reads_ = nullptr;
  ReadFetch* free_fetches_ = nullptr;
  std::array<std::byte*, kParkedPages> free_pages_;
  std::size_t free_page_count_ = 0;
  std::size_t staged_left_ = 0;
  tier::IoStatus staged_status_ = tier::IoStatus::kOk;
  // Written under the mutex; raised by the connection's thread alone, which may therefore believe a
  // zero that it reads without.
  std::atomic<std::size_t> parked_{0};
};

}  // namespace farswap::nbd
