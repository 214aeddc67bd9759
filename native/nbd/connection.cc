#include "nbd/connection.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"
#include "tier/codec.h"

namespace farswap::nbd {

using tier::IoStatus;
using tier::kPageBytes;
using tier::PageDevice;
using tier::SlotIndex;

namespace {

SlotIndex SlotAt(std::uint64_t offset) { return static_cast<SlotIndex>(offset / kPageBytes); }

std::size_t PageCount(const Request& request) { return request.length / kPageBytes; }

}  // namespace

// --- Life ---------------------------------------------------------------------------------------

Result<std::unique_ptr<Connection>> Connection::Create(PageDevice* tier, std::uint64_t export_bytes,
                                                       int socket,
                                                       std::span<const std::byte> initial) {
  std::unique_ptr<Connection> connection(new Connection(tier, export_bytes, socket));
  if (initial.size() > kReceiveBytes) return Error{"too many bytes after the handshake"};
  const int flags = fcntl(socket, F_GETFL);
  if (flags < 0 || fcntl(socket, F_SETFL, flags & ~O_NONBLOCK) < 0) {
    return Error{std::string("failed to make the socket blocking: ") + std::strerror(errno)};
  }
  auto memory = Memory::Create(kReceiveBytes + kReplyBytes, "nbd connection");
  if (!memory.ok()) return memory.error();
  connection->memory_ = std::move(memory.value());
  connection->received_ = connection->memory_->data();
  connection->reply_ = connection->received_ + kReceiveBytes;
  auto replies = ReplyStream::Create(socket, &connection->errors_);
  if (!replies.ok()) return replies.error();
  connection->replies_ = std::move(replies.value());
  std::copy(initial.begin(), initial.end(), connection->received_);
  connection->received_end_ = initial.size();
  return connection;
}

Connection::~Connection() { close(socket_); }

void Connection::Shutdown() { shutdown(socket_, SHUT_RDWR); }

void Connection::Run() {
  // Now, before any page is stored: a later failure would be an EIO.
  if (!tier::PrepareThreadForPages().ok()) return;
  while (HandleReceived() && FlushReplies() && Receive()) {
  }
  replies_->CancelWrites(tier_, write_parked_ ? write_ : nullptr);
  FlushReplies();
  replies_->WaitUntilIdle();
}

// --- Receiving and sending ----------------------------------------------------------------------

bool Connection::Receive() {
  // The rest is the start of a request or page, so little is moved.
  std::memmove(received_, received_ + received_begin_, received_end_ - received_begin_);
  received_end_ -= std::exchange(received_begin_, 0);
  if (replies_->AnyParked() && !WaitReadable()) return false;
  for (;;) {
    const ssize_t got = recv(socket_, received_ + received_end_, kReceiveBytes - received_end_, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    received_end_ += static_cast<std::size_t>(got);
    return true;
  }
}

/// Waits for the client while requests are parked, and sends replies that are stuck.
bool Connection::WaitReadable() {
  std::array<pollfd, 2> waits{{{socket_, POLLIN, 0}, {replies_->wake_fd(), POLLIN, 0}}};
  for (;;) {  // ends with the connection: shutdown(2) makes the socket readable
    if (poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) return false;
    if (waits[1].revents != 0) {
      std::uint64_t wakes;
      [[maybe_unused]] const ssize_t got = read(replies_->wake_fd(), &wakes, sizeof(wakes));
      if (!replies_->Send({})) return false;
    }
    if (waits[0].revents != 0) return true;
    waits[0].revents = waits[1].revents = 0;
  }
}

bool Connection::FlushReplies() {
  return reply_end_ == 0 || replies_->Send({reply_, std::exchange(reply_end_, 0)});
}

bool Connection::Reply(WireError error, std::uint64_t cookie) {
  if (error != WireError::kNone) errors_.fetch_add(1, std::memory_order_relaxed);
  if (reply_end_ + kSimpleReplyBytes > kReplyBytes && !FlushReplies()) return false;
  PutSimpleReply(reply_ + reply_end_, error, cookie);
  reply_end_ += kSimpleReplyBytes;
  return true;
}

// --- Requests -----------------------------------------------------------------------------------

bool Connection::HandleReceived() {
  for (;;) {  // ends: every event but the last consumes bytes
    const ParserEvent event =
        parser_.Next({received_ + received_begin_, received_end_ - received_begin_});
    received_begin_ += event.consumed;
    bool open = true;
    switch (event.kind) {
      case ParserEventKind::kNeedBytes:
        return true;
      case ParserEventKind::kBroken:
        last_refusal_.store("bad request magic", std::memory_order_relaxed);
        return false;
      case ParserEventKind::kRequest:
        requests_.fetch_add(1, std::memory_order_relaxed);
        open = HandleRequest(event.request);
        break;
      case ParserEventKind::kPayload:
        open = WritePayload(event);
        break;
      case ParserEventKind::kRefused:
        requests_.fetch_add(1, std::memory_order_relaxed);
        last_refusal_.store(event.refusal->reason, std::memory_order_relaxed);
        open = Reply(event.refusal->error, event.request.cookie);
        break;
    }
    if (!open) return false;
  }
}

bool Connection::HandleRequest(const Request& request) {
  switch (request.command) {
    case Command::kRead:
      return Read(request);
    case Command::kWrite:
      write_status_ = IoStatus::kOk;
      return true;  // replied when its payload is complete
    case Command::kDisconnect:
      return false;
    case Command::kTrim:
    case Command::kWriteZeroes:
      Forget(request.offset, request.length);
      return Reply(WireError::kNone, request.cookie);
    case Command::kFlush:
    case Command::kCache:
      // A write is acknowledged when it is in the pool, which is all the persistence that swap
      // needs, and there is nothing to cache.
      return Reply(WireError::kNone, request.cookie);
  }
  FARSWAP_CHECK(false && "validated");
  return false;
}

// --- READ ---------------------------------------------------------------------------------------

bool Connection::Read(const Request& request) {
  const std::size_t bytes = kSimpleReplyBytes + request.length;
  if (reply_end_ + bytes > kReplyBytes && !FlushReplies()) return false;
  std::byte* const data = reply_ + reply_end_ + kSimpleReplyBytes;
  for (std::size_t i = 0; i < PageCount(request); ++i) {
    const std::size_t done = i * kPageBytes;
    const auto result = tier_->Load(SlotAt(request.offset + done), data + done);
    if (result == PageDevice::LoadResult::kIoError) return Reply(WireError::kIo, request.cookie);
    if (result != PageDevice::LoadResult::kRemote) continue;
    return PageCount(request) <= ParkedRequest::kPagesMax ? ReadParked(request, i, data)
                                                          : ReadLarge(request, i, data);
  }
  PutSimpleReply(data - kSimpleReplyBytes, WireError::kNone, request.cookie);
  reply_end_ += bytes;
  return true;
}

/// Continues a read whose page `first_remote` is on a memory server; the pages before it are at
/// `produced`, in the reply buffer.
bool Connection::ReadParked(const Request& request, std::size_t first_remote,
                            const std::byte* produced) {
  const std::size_t page_count = PageCount(request);
  ParkedRequest* read = replies_->TryPark(page_count);
  if (read == nullptr) {
    if (!FlushReplies()) return false;  // leaves the bytes at `produced` as they are
    read = replies_->Park(page_count);
  }
  read->cookie = request.cookie;

  const SlotIndex first = SlotAt(request.offset);
  std::array<std::size_t, ParkedRequest::kPagesMax> remote;
  std::size_t remote_count = 0;
  for (std::size_t i = 0; i < page_count; ++i) {
    const auto slot = static_cast<SlotIndex>(first + i);
    if (i < first_remote) {
      std::memcpy(read->pages[i], produced + i * kPageBytes, kPageBytes);
    } else if (i == first_remote) {
      remote[remote_count++] = i;
    } else {
      const auto result = tier_->Load(slot, read->pages[i]);
      if (result == PageDevice::LoadResult::kRemote) remote[remote_count++] = i;
      if (result != PageDevice::LoadResult::kIoError) continue;
      replies_->Unpark(read);
      return Reply(WireError::kIo, request.cookie);
    }
  }

  std::array<ReadFetch*, 2> fetches;
  std::size_t fetch_count = 0;
  for (std::size_t i = 0; i < remote_count; ++i) {
    const auto slot = static_cast<SlotIndex>(first + remote[i]);
    if (i == 0 || slot / tier::kShardSlots != (first + remote[i - 1]) / tier::kShardSlots) {
      fetches[fetch_count++] = replies_->TakeFetch(read);
    }
    ReadFetch* const fetch = fetches[fetch_count - 1];
    fetch->page_slots[fetch->page_count] = slot;
    fetch->page_outputs[fetch->page_count++] = read->pages[remote[i]];
  }
  replies_->Submit(tier_, read, {fetches.data(), fetch_count});
  return true;
}

/// Continues a read that is too large to be parked: fetches its pages from `first_remote` on
/// into the reply buffer, at `data`, while the requests behind it wait. Earlier replies are sent
/// first.
bool Connection::ReadLarge(const Request& request, std::size_t first_remote, std::byte* data) {
  if (!FlushReplies()) return false;  // leaves the bytes at `data` as they are
  if (!FetchLarge(request, first_remote, data)) return Reply(WireError::kIo, request.cookie);
  std::byte* const message = data - kSimpleReplyBytes;
  PutSimpleReply(message, WireError::kNone, request.cookie);
  return replies_->Send({message, kSimpleReplyBytes + request.length});
}

/// False if a page cannot be read.
bool Connection::FetchLarge(const Request& request, std::size_t first_remote, std::byte* data) {
  bool intact = true;
  ReadFetch* fetch = nullptr;
  for (std::size_t i = first_remote; intact && i < PageCount(request); ++i) {
    const auto slot = static_cast<SlotIndex>(SlotAt(request.offset) + i);
    std::byte* const page = data + i * kPageBytes;
    const auto result = tier_->Load(slot, page);
    if (result == PageDevice::LoadResult::kIoError) intact = false;
    if (result != PageDevice::LoadResult::kRemote) continue;
    if (fetch != nullptr &&
        (fetch->page_count == tier::PageFetch::kPagesMax ||
         fetch->page_slots[0] / tier::kShardSlots != slot / tier::kShardSlots)) {
      replies_->SubmitLarge(tier_, std::exchange(fetch, nullptr));
    }
    if (fetch == nullptr) fetch = replies_->TakeFetch(nullptr);
    fetch->page_slots[fetch->page_count] = slot;
    fetch->page_outputs[fetch->page_count++] = page;
  }
  if (fetch != nullptr) replies_->SubmitLarge(tier_, fetch);
  return replies_->WaitLarge() == IoStatus::kOk && intact;
}

// --- WRITE, TRIM, WRITE_ZEROES ------------------------------------------------------------------

bool Connection::WritePayload(const ParserEvent& event) {
  if (write_status_ == IoStatus::kOk) {
    write_status_ = StoreRange(event.offset, event.payload);
  } else {
    Forget(event.offset, event.payload.size());
  }
  if (!event.last) return true;
  if (!std::exchange(write_parked_, false)) {
    return Reply(ErrorOf(write_status_), event.request.cookie);
  }
  replies_->SubmitWrite(std::exchange(write_, nullptr), event.request.cookie, write_status_);
  return true;
}

/// From the first refused page on, or once a parked one was refused, the slots are emptied: none of
/// a failed write's slots may bring back its old page (parked_write.cc).
IoStatus Connection::StoreRange(std::uint64_t offset, std::span<const std::byte> bytes) {
  for (; !bytes.empty(); offset += kPageBytes, bytes = bytes.subspan(kPageBytes)) {
    IoStatus status = write_parked_ ? replies_->StatusOf(write_) : IoStatus::kOk;
    if (status == IoStatus::kOk) status = StorePage(SlotAt(offset), bytes.data());
    if (status == IoStatus::kOk) continue;
    Forget(offset, bytes.size());
    return status;
  }
  return IoStatus::kOk;
}

/// kOk: stored, or parked.
IoStatus Connection::StorePage(SlotIndex slot, const std::byte* page) {
  for (;;) {  // ends: the second time there is memory to park in
    if (write_ == nullptr || store_ == nullptr) replies_->TakeForWrite(&write_, &store_);
    const bool may_park = write_ != nullptr && store_ != nullptr;
    if (may_park) ReplyStream::Assign(store_, write_);
    const IoStatus status = tier_->TryStore(slot, page, may_park ? store_ : nullptr);
    if (status != IoStatus::kPending) return status;
    if (may_park) {
      replies_->Parked(write_);
      write_parked_ = true;
      store_ = nullptr;
      return IoStatus::kOk;
    }
    FlushReplies();
    replies_->AwaitForWrite(&write_, &store_);
  }
}

void Connection::Forget(std::uint64_t offset, std::uint64_t length) {
  tier_->Invalidate(SlotAt(offset), length / kPageBytes);
}

}  // namespace farswap::nbd
