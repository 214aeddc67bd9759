#include "nbd/reply_stream.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

namespace farswap::nbd {

using tier::IoStatus;
using tier::kPageBytes;

// --- Set-up -------------------------------------------------------------------------------------

Result<std::unique_ptr<ReplyStream>> ReplyStream::Create(int socket,
                                                         std::atomic<std::uint64_t>* errors) {
  std::unique_ptr<ReplyStream> stream(new ReplyStream(socket, errors));
  stream->wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (stream->wake_fd_ < 0) return Error{std::string("eventfd: ") + std::strerror(errno)};
  auto memory = LockedMapping::Create(kParkedPages * kPageBytes, "nbd parked reads");
  if (!memory.ok()) return memory.error();
  stream->page_memory_ = std::move(memory.value());
  stream->reads_ = std::make_unique<std::array<ParkedRead, kParkedReads>>();
  stream->fetches_ = std::make_unique<std::array<ReadFetch, kFetches>>();
  for (std::size_t i = 0; i < kParkedPages; ++i) {
    stream->free_pages_[i] = stream->page_memory_->data() + i * kPageBytes;
  }
  stream->free_page_count_ = kParkedPages;
  for (ParkedRead& read : *stream->reads_) {
    read.next_ = std::exchange(stream->free_reads_, &read);
  }
  for (ReadFetch& fetch : *stream->fetches_) {
    fetch.stream_ = stream.get();
    fetch.next_ = std::exchange(stream->free_fetches_, &fetch);
  }
  return stream;
}

ReplyStream::~ReplyStream() {
  assert(parked_.load() == 0 && staged_left_ == 0);
  if (wake_fd_ >= 0) close(wake_fd_);
}

// --- Parking ------------------------------------------------------------------------------------

bool ReplyStream::HasRoom(std::size_t page_count) const {
  return free_reads_ != nullptr && free_page_count_ >= page_count;
}

ParkedRead* ReplyStream::TryPark(std::size_t page_count) {
  assert(page_count > 0 && page_count <= ParkedRead::kPagesMax);
  const std::lock_guard lock(mutex_);
  if (!HasRoom(page_count)) return nullptr;
  ParkedRead* read = std::exchange(free_reads_, free_reads_->next_);
  read->next_ = nullptr;
  read->status_ = IoStatus::kOk;
  read->sent_bytes_ = 0;
  read->page_count = page_count;
  for (std::size_t i = 0; i < page_count; ++i) read->pages[i] = free_pages_[--free_page_count_];
  parked_.fetch_add(1, std::memory_order_relaxed);
  return read;
}

ParkedRead* ReplyStream::Park(std::size_t page_count) {
  for (;;) {  // ends: reads that are under way finish within the deadline of their fetches
    ParkedRead* read = TryPark(page_count);
    if (read != nullptr) return read;
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return HasRoom(page_count) || stuck_; });
    if (!stuck_) continue;
    lock.unlock();
    Send({});
  }
}

void ReplyStream::Release(ParkedRead* read) {
  for (std::size_t i = 0; i < read->page_count; ++i) {
    free_pages_[free_page_count_++] = read->pages[i];
  }
  read->next_ = std::exchange(free_reads_, read);
  parked_.fetch_sub(1, std::memory_order_release);
}

void ReplyStream::Unpark(ParkedRead* read) {
  const std::lock_guard lock(mutex_);
  Release(read);
}

ReadFetch* ReplyStream::TakeFetch(ParkedRead* read) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return free_fetches_ != nullptr; });
  ReadFetch* fetch = std::exchange(free_fetches_, free_fetches_->next_);
  fetch->read_ = read;
  fetch->page_count = 0;
  return fetch;
}

void ReplyStream::Submit(tier::PageDevice* tier, ParkedRead* read,
                         std::span<ReadFetch* const> fetches) {
  {
    const std::lock_guard lock(mutex_);
    read->fetches_left_ = fetches.size();
  }
  for (ReadFetch* fetch : fetches) tier->Fetch(fetch);
}

void ReplyStream::SubmitStaged(tier::PageDevice* tier, ReadFetch* fetch) {
  {
    const std::lock_guard lock(mutex_);
    ++staged_left_;
  }
  tier->Fetch(fetch);
}

IoStatus ReplyStream::WaitStaged() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return staged_left_ == 0; });
  return std::exchange(staged_status_, IoStatus::kOk);
}

// --- Completion ---------------------------------------------------------------------------------

void ReadFetch::OnFetched(IoStatus status) { stream_->OnFetchDone(this, status); }

void ReplyStream::OnFetchDone(ReadFetch* fetch, IoStatus status) {
  std::unique_lock lock(mutex_);
  ParkedRead* const read = fetch->read_;
  fetch->next_ = std::exchange(free_fetches_, fetch);
  changed_.notify_all();
  if (read == nullptr) {
    if (status != IoStatus::kOk) staged_status_ = status;
    --staged_left_;
    return;
  }
  if (status != IoStatus::kOk) read->status_ = status;
  if (--read->fetches_left_ > 0) return;
  if (read->status_ != IoStatus::kOk) errors_->fetch_add(1, std::memory_order_relaxed);
  (queue_tail_ == nullptr ? queue_head_ : queue_tail_->next_) = read;
  queue_tail_ = read;
  if (sending_ || stuck_) return;
  sending_ = true;
  SendQueue(lock, /*blocking=*/false);
  StopSending();
}

// --- Sending ------------------------------------------------------------------------------------

void ReplyStream::BecomeSender(std::unique_lock<std::mutex>& lock) {
  changed_.wait(lock, [&] { return !sending_; });
  sending_ = true;
}

void ReplyStream::StopSending() {
  sending_ = false;
  changed_.notify_all();
}

/// Sends until the queue is empty or (not blocking) stuck. For the sender; called and left locked.
void ReplyStream::SendQueue(std::unique_lock<std::mutex>& lock, bool blocking) {
  assert(sending_);
  while (queue_head_ != nullptr) {
    ParkedRead* const read = queue_head_;
    const bool drop = gone_;
    lock.unlock();
    const SendOutcome outcome = drop ? SendOutcome::kGone : SendRead(read, blocking);
    // While this thread is the sender nobody can find the stream idle, so it is still there.
    if (outcome == SendOutcome::kWouldBlock) Wake();
    lock.lock();
    if (outcome == SendOutcome::kWouldBlock) {
      stuck_ = true;
      return;
    }
    if (outcome == SendOutcome::kGone) gone_ = true;
    queue_head_ = read->next_;
    if (queue_head_ == nullptr) queue_tail_ = nullptr;
    Release(read);
    changed_.notify_all();
  }
  stuck_ = false;
}

bool ReplyStream::Send(std::span<const std::byte> batch) {
  std::unique_lock lock(mutex_);
  BecomeSender(lock);
  SendQueue(lock, /*blocking=*/true);
  if (!batch.empty() && !gone_) {
    lock.unlock();
    const bool sent = SendBytes(batch);
    lock.lock();
    if (!sent) gone_ = true;
    SendQueue(lock, /*blocking=*/true);
  }
  StopSending();
  return !gone_;
}

ReplyStream::SendOutcome ReplyStream::SendRead(ParkedRead* read, bool blocking) {
  std::byte header[kSimpleReplyBytes];
  const bool failed = read->status_ != IoStatus::kOk;
  PutSimpleReply(header, failed ? WireError::kIo : WireError::kNone, read->cookie);
  std::array<iovec, ParkedRead::kPagesMax + 1> parts;
  const std::size_t total = kSimpleReplyBytes + (failed ? 0 : read->length);
  while (read->sent_bytes_ < total) {
    std::size_t count = 0;
    std::size_t skip = read->sent_bytes_;
    const auto add = [&](std::byte* at, std::size_t bytes) {
      const std::size_t skipped = std::min(skip, bytes);
      skip -= skipped;
      if (bytes > skipped) parts[count++] = {at + skipped, bytes - skipped};
    };
    add(header, kSimpleReplyBytes);
    std::size_t left = failed ? 0 : read->length;
    for (std::size_t i = 0; left > 0; ++i) {
      const std::size_t from = i == 0 ? read->first_byte : 0;
      const std::size_t bytes = std::min(left, kPageBytes - from);
      add(read->pages[i] + from, bytes);
      left -= bytes;
    }
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = count;
    const ssize_t sent = sendmsg(socket_, &message, MSG_NOSIGNAL | (blocking ? 0 : MSG_DONTWAIT));
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return SendOutcome::kWouldBlock;
    if (sent < 0) return SendOutcome::kGone;
    read->sent_bytes_ += static_cast<std::size_t>(sent);
  }
  return SendOutcome::kSent;
}

bool ReplyStream::SendBytes(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
  return true;
}

void ReplyStream::Wake() {
  const std::uint64_t one = 1;
  // Fails only if it is readable already.
  [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof(one));
}

void ReplyStream::WaitUntilIdle() {
  std::unique_lock lock(mutex_);
  for (;;) {  // ends with the deadline of the fetches
    changed_.wait(lock, [&] { return stuck_ || (parked_ == 0 && staged_left_ == 0 && !sending_); });
    if (!stuck_) return;
    lock.unlock();
    Send({});
    lock.lock();
  }
}

}  // namespace farswap::nbd
