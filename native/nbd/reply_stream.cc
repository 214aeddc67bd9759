#include "nbd/reply_stream.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace farswap::nbd {

using tier::IoStatus;
using tier::kPageBytes;

WireError ErrorOf(IoStatus status) {
  switch (status) {
    case IoStatus::kOk:
      return WireError::kNone;
    case IoStatus::kNoSpace:
      return WireError::kNoSpace;
    case IoStatus::kIoError:
    case IoStatus::kPending:
      break;
  }
  return WireError::kIo;
}

// --- Set-up -------------------------------------------------------------------------------------

Result<std::unique_ptr<ReplyStream>> ReplyStream::Create(int socket,
                                                         std::atomic<std::uint64_t>* errors) {
  std::unique_ptr<ReplyStream> stream(new ReplyStream(socket, errors));
  stream->wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (stream->wake_fd_ < 0) return Error{std::string("eventfd: ") + std::strerror(errno)};
  auto memory = Memory::Create(kParkedPages * kPageBytes, "nbd parked reads");
  if (!memory.ok()) return memory.error();
  stream->page_memory_ = std::move(memory.value());
  auto store_memory = Memory::Create(kParkedStores * kPageBytes, "nbd parked writes");
  if (!store_memory.ok()) return store_memory.error();
  stream->store_memory_ = std::move(store_memory.value());
  stream->requests_ = std::make_unique<std::array<ParkedRequest, kParkedReads + kParkedWrites>>();
  stream->fetches_ = std::make_unique<std::array<ReadFetch, kFetches>>();
  for (std::size_t i = 0; i < kParkedPages; ++i) {
    stream->free_pages_[i] = stream->page_memory_->data() + i * kPageBytes;
  }
  stream->free_page_count_ = kParkedPages;
  for (std::size_t i = 0; i < stream->requests_->size(); ++i) {
    ParkedRequest& request = stream->requests_->at(i);
    request.free_list_ = i < kParkedReads ? &stream->free_reads_ : &stream->free_writes_;
    request.next_ = std::exchange(*request.free_list_, &request);
  }
  for (ReadFetch& fetch : *stream->fetches_) {
    fetch.stream_ = stream.get();
    fetch.next_ = std::exchange(stream->free_fetches_, &fetch);
  }
  for (std::size_t i = 0; i < kParkedStores; ++i) {
    ParkedStore& store =
        stream->stores_.emplace_back(stream->store_memory_->data() + i * kPageBytes);
    store.stream_ = stream.get();
    stream->FreeStore(&store);
  }
  return stream;
}

ReplyStream::~ReplyStream() {
  FARSWAP_CHECK(parked_.load() == 0 && large_left_ == 0);
  if (wake_fd_ >= 0) close(wake_fd_);
}

// --- Parking ------------------------------------------------------------------------------------

bool ReplyStream::HasRoom(std::size_t page_count) const {
  return free_reads_ != nullptr && free_page_count_ >= page_count;
}

/// The list must not be empty.
ParkedRequest* ReplyStream::TakeRequest(ParkedRequest** free_list) {
  ParkedRequest* request = std::exchange(*free_list, (*free_list)->next_);
  request->page_count = 0;
  request->parts_left_ = 0;
  request->submitted_ = request->parked_ = request->dropped_ = false;
  request->status_ = IoStatus::kOk;
  request->sent_bytes_ = 0;
  request->next_ = nullptr;
  return request;
}

ParkedRequest* ReplyStream::TryPark(std::size_t page_count) {
  FARSWAP_CHECK(page_count > 0 && page_count <= ParkedRequest::kPagesMax);
  const std::lock_guard lock(mutex_);
  if (!HasRoom(page_count)) return nullptr;
  ParkedRequest* read = TakeRequest(&free_reads_);
  read->parked_ = true;
  read->page_count = page_count;
  for (std::size_t i = 0; i < page_count; ++i) read->pages[i] = free_pages_[--free_page_count_];
  parked_.fetch_add(1, std::memory_order_relaxed);
  return read;
}

ParkedRequest* ReplyStream::Park(std::size_t page_count) {
  for (;;) {  // ends: parked reads end within the deadline of their fetches
    ParkedRequest* read = TryPark(page_count);
    if (read != nullptr) return read;
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return HasRoom(page_count) || stuck_; });
    if (!stuck_) continue;
    lock.unlock();
    Send({});
  }
}

void ReplyStream::Release(ParkedRequest* request) {
  for (std::size_t i = 0; i < request->page_count; ++i) {
    free_pages_[free_page_count_++] = request->pages[i];
  }
  request->next_ = std::exchange(*request->free_list_, request);
  parked_.fetch_sub(1, std::memory_order_release);
  changed_.notify_all();
}

void ReplyStream::Unpark(ParkedRequest* read) {
  const std::lock_guard lock(mutex_);
  Release(read);
}

ReadFetch* ReplyStream::TakeFetch(ParkedRequest* read) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return free_fetches_ != nullptr; });
  ReadFetch* fetch = std::exchange(free_fetches_, free_fetches_->next_);
  fetch->read_ = read;
  fetch->page_count = 0;
  return fetch;
}

void ReplyStream::Submit(tier::PageDevice* tier, ParkedRequest* read,
                         std::span<ReadFetch* const> fetches) {
  {
    const std::lock_guard lock(mutex_);
    read->parts_left_ = static_cast<std::int64_t>(fetches.size());
    read->submitted_ = true;
  }
  for (ReadFetch* fetch : fetches) tier->Fetch(fetch);
}

void ReplyStream::SubmitLarge(tier::PageDevice* tier, ReadFetch* fetch) {
  {
    const std::lock_guard lock(mutex_);
    ++large_left_;
  }
  tier->Fetch(fetch);
}

IoStatus ReplyStream::WaitLarge() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return large_left_ == 0; });
  return std::exchange(large_status_, IoStatus::kOk);
}

// --- Completion ---------------------------------------------------------------------------------

void ReadFetch::OnFetched(IoStatus status) { stream_->OnFetchDone(this, status); }

void ReplyStream::OnFetchDone(ReadFetch* fetch, IoStatus status) {
  std::unique_lock lock(mutex_);
  ParkedRequest* const read = fetch->read_;
  fetch->next_ = std::exchange(free_fetches_, fetch);
  changed_.notify_all();
  if (read == nullptr) {
    if (status != IoStatus::kOk) large_status_ = status;
    --large_left_;
    return;
  }
  if (status != IoStatus::kOk) read->status_ = status;
  --read->parts_left_;
  FinishPart(lock, read);
}

/// Sends the reply if the request is complete. Its last access to the stream is the caller's
/// unlock.
void ReplyStream::FinishPart(std::unique_lock<std::mutex>& lock, ParkedRequest* request) {
  if (!request->submitted_ || request->parts_left_ > 0) return;
  if (request->dropped_) return Release(request);
  if (request->status_ != IoStatus::kOk) errors_->fetch_add(1, std::memory_order_relaxed);
  (queue_tail_ == nullptr ? queue_head_ : queue_tail_->next_) = request;
  queue_tail_ = request;
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

/// Sends until the queue is empty or (not blocking) stuck. For the sender, with the mutex locked.
void ReplyStream::SendQueue(std::unique_lock<std::mutex>& lock, bool blocking) {
  FARSWAP_CHECK(sending_);
  while (queue_head_ != nullptr) {
    ParkedRequest* const request = queue_head_;
    const bool drop = gone_;
    lock.unlock();
    const SendOutcome outcome = drop ? SendOutcome::kGone : SendParked(request, blocking);
    // While this thread is the sender, the stream is not idle, so it still exists.
    if (outcome == SendOutcome::kWouldBlock) Wake();
    lock.lock();
    if (outcome == SendOutcome::kWouldBlock) {
      stuck_ = true;
      return;
    }
    if (outcome == SendOutcome::kGone) gone_ = true;
    queue_head_ = request->next_;
    if (queue_head_ == nullptr) queue_tail_ = nullptr;
    Release(request);
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

ReplyStream::SendOutcome ReplyStream::SendParked(ParkedRequest* request, bool blocking) {
  std::byte header[kSimpleReplyBytes];
  const bool failed = request->status_ != IoStatus::kOk;
  PutSimpleReply(header, ErrorOf(request->status_), request->cookie);
  std::array<iovec, ParkedRequest::kPagesMax + 1> parts;
  const std::size_t pages = failed ? 0 : request->page_count;
  const std::size_t total = kSimpleReplyBytes + pages * kPageBytes;
  while (request->sent_bytes_ < total) {
    std::size_t count = 0;
    std::size_t skip = request->sent_bytes_;
    const auto add = [&](std::byte* at, std::size_t bytes) {
      const std::size_t skipped = std::min(skip, bytes);
      skip -= skipped;
      if (bytes > skipped) parts[count++] = {at + skipped, bytes - skipped};
    };
    add(header, kSimpleReplyBytes);
    for (std::size_t i = 0; i < pages; ++i) add(request->pages[i], kPageBytes);
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = count;
    const ssize_t sent = sendmsg(socket_, &message, MSG_NOSIGNAL | (blocking ? 0 : MSG_DONTWAIT));
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return SendOutcome::kWouldBlock;
    if (sent < 0) return SendOutcome::kGone;
    request->sent_bytes_ += static_cast<std::size_t>(sent);
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
    changed_.wait(lock, [&] { return stuck_ || (parked_ == 0 && large_left_ == 0 && !sending_); });
    if (!stuck_) return;
    lock.unlock();
    Send({});
    lock.lock();
  }
}

}  // namespace farswap::nbd
