// Step 2 of a generation: the requests.
#include <cstring>
#include <utility>

#include "base/check.h"
#include "nbd/connection.h"

namespace farswap::nbd {

using tier::IoStatus;
using tier::kPageBytes;
using tier::PageDevice;
using tier::SlotIndex;

namespace {

SlotIndex SlotAt(std::uint64_t offset) { return static_cast<SlotIndex>(offset / kPageBytes); }

}  // namespace

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

void Connection::HandleReceived() {
  const bool one_at_a_time = state_.record().executions > State::kExecutionsMax;
  const bool refuse = state_.record().executions > State::kExecutionsMax + 1;
  for (;;) {  // ends: every event but the last consumes bytes
    stop_ = Stop::kRepliesFull;
    if (!HasReplyRoom(0)) return;
    const ParserEvent event = parser_.Next({state_.received.data() + begin_, end_ - begin_});
    begin_ += event.consumed;
    std::size_t unread = 0;
    switch (event.kind) {
      case ParserEventKind::kNeedBytes:
        stop_ = Stop::kNeedsBytes;
        return;
      case ParserEventKind::kBroken:
        last_refusal_.store("bad request magic", std::memory_order_relaxed);
        stop_ = Stop::kEnded;
        return;
      case ParserEventKind::kRequest: {
        const Handled handled = HandleRequest(event.request, refuse);
        if (stop_ == Stop::kEnded) return;
        if (handled != Handled::kDone) unread = kRequestBytes;
        if (handled == Handled::kNeedsMemory) stop_ = Stop::kNeedsMemory;
        if (handled == Handled::kDone) requests_.fetch_add(1, std::memory_order_relaxed);
        break;
      }
      case ParserEventKind::kPayload:
        if (refuse) state_.next().write_status = IoStatus::kIoError;
        unread = WritePayload(event);
        if (unread > 0) stop_ = Stop::kNeedsMemory;
        break;
      case ParserEventKind::kRefused:
        requests_.fetch_add(1, std::memory_order_relaxed);
        last_refusal_.store(event.refusal->reason, std::memory_order_relaxed);
        Reply(event.refusal->error, event.request.cookie);
        break;
    }
    if (unread > 0) {
      parser_.Unread(event, unread);
      begin_ -= unread;
    }
    if (unread > 0 || one_at_a_time) return;
  }
}

Connection::Handled Connection::HandleRequest(const Request& request, bool refuse) {
  if (refuse && request.command != Command::kWrite && request.command != Command::kDisconnect) {
    Reply(WireError::kIo, request.cookie);
    return Handled::kDone;
  }
  switch (request.command) {
    case Command::kRead:
      return Read(request);
    case Command::kWrite:
      state_.next().write_status = IoStatus::kOk;
      return Handled::kDone;  // replied when its payload is complete
    case Command::kDisconnect:
      stop_ = Stop::kEnded;
      return Handled::kDone;
    case Command::kTrim:
    case Command::kWriteZeroes:
      Forget(request.offset, request.length);
      break;
    case Command::kFlush:
    case Command::kCache:
      // A write is acknowledged when it is in the pool, which is all the persistence that swap
      // needs, and there is nothing to cache.
      break;
  }
  Reply(WireError::kNone, request.cookie);
  return Handled::kDone;
}

/// With room for it.
void Connection::Reply(WireError error, std::uint64_t cookie) {
  if (error != WireError::kNone) errors_.fetch_add(1, std::memory_order_relaxed);
  PutSimpleReply(state_.reply.data() + reply_end_, error, cookie);
  reply_end_ += kSimpleReplyBytes;
}

// --- READ ---------------------------------------------------------------------------------------

Connection::Handled Connection::Read(const Request& request) {
  if (!HasReplyRoom(request.length)) return Handled::kRepliesFull;
  std::byte* const data = state_.reply.data() + reply_end_ + kSimpleReplyBytes;
  for (std::size_t done = 0; done < request.length; done += kPageBytes) {
    const auto result = tier_->Load(SlotAt(request.offset + done), data + done);
    if (result == PageDevice::LoadResult::kRemote) return ParkRead(request, {data, done});
    if (result == PageDevice::LoadResult::kDone) continue;
    Reply(WireError::kIo, request.cookie);
    return Handled::kDone;
  }
  Reply(WireError::kNone, request.cookie);
  reply_end_ += request.length;
  return Handled::kDone;
}

/// Continues a read whose page behind the loaded ones is on a memory server.
Connection::Handled Connection::ParkRead(const Request& request,
                                         std::span<const std::byte> loaded) {
  const std::uint32_t pages = request.length / kPageBytes;
  Record& next = state_.next();
  const std::size_t index = Bits<State::kParkedReads>::FirstFree(state_.record().reads, next.reads);
  if (index == State::kParkedReads || !parked_->HasRoomFor(pages)) return Handled::kNeedsMemory;
  state_.reads[index] = {request.cookie, SlotAt(request.offset), pages};
  next.reads.Set(index);
  parked_->StartRead(index, state_.reads[index], loaded);
  return Handled::kDone;
}

/// False: there is no room for the reply.
bool Connection::AnswerRead(std::size_t index) {
  const ParkedRead& read = state_.reads[index];
  const IoStatus status = parked_->StatusOfRead(index);
  const std::size_t bytes = status == IoStatus::kOk ? read.page_count * kPageBytes : 0;
  if (!HasReplyRoom(bytes)) return false;
  Reply(ErrorOf(status), read.cookie);
  parked_->TakeRead(index, state_.reply.data() + reply_end_);
  reply_end_ += bytes;
  state_.next().reads.Reset(index);
  return true;
}

// --- WRITE, TRIM, WRITE_ZEROES ------------------------------------------------------------------

/// Returns how many bytes must wait for memory. From the first refused page on, or once a parked
/// one was refused, the slots are emptied.
std::size_t Connection::WritePayload(const ParserEvent& event) {
  Record& next = state_.next();
  const std::uint64_t cookie = event.request.cookie;
  for (std::size_t done = 0; done < event.payload.size(); done += kPageBytes) {
    IoStatus status = next.write_status;
    if (status == IoStatus::kOk && next.write != State::kNoWrite) {
      status = state_.writes[next.write].status;
    }
    if (status == IoStatus::kOk) {
      status = StorePage(cookie, SlotAt(event.offset + done), event.payload.data() + done);
    }
    if (status == IoStatus::kOk) continue;
    if (status == IoStatus::kPending) return event.payload.size() - done;
    next.write_status = status;
    Forget(event.offset + done, event.payload.size() - done);
    break;
  }
  if (!event.last) return 0;
  const std::uint32_t write = std::exchange(next.write, State::kNoWrite);
  if (write == State::kNoWrite) {
    Reply(ErrorOf(next.write_status), cookie);
    return 0;
  }
  IoStatus& status = state_.writes[write].status;
  if (status == IoStatus::kOk) status = next.write_status;
  if (stores_left_[write] == 0) AnswerWrite(write);
  return 0;
}

/// kOk: stored, or parked. kPending: there is no memory to park it.
IoStatus Connection::StorePage(std::uint64_t cookie, SlotIndex slot, const std::byte* page) {
  const Record& now = state_.record();
  Record& next = state_.next();
  const std::size_t index = Bits<State::kParkedStores>::FirstFree(now.stores, next.stores);
  const std::size_t write = next.write != State::kNoWrite
                                ? next.write
                                : Bits<State::kParkedWrites>::FirstFree(now.writes, next.writes);
  const bool may_park = index < State::kParkedStores && write < State::kParkedWrites;
  const IoStatus status = tier_->TryStore(slot, page, may_park ? parked_->store(index) : nullptr);
  if (status != IoStatus::kPending || !may_park) return status;
  if (next.write == State::kNoWrite) {
    next.write = static_cast<std::uint32_t>(write);
    next.writes.Set(write);
    state_.writes[write] = {cookie, IoStatus::kOk};
    stores_left_[write] = 0;
  }
  state_.stores[index] = {slot, next.write};
  std::memcpy(state_.store_pages[index].data(), page, kPageBytes);
  next.stores.Set(index);
  ++stores_left_[write];
  return IoStatus::kOk;
}

void Connection::Forget(std::uint64_t offset, std::uint64_t length) {
  tier_->Invalidate(SlotAt(offset), length / kPageBytes);
}

void Connection::FinishStore(std::size_t index) {
  Record& next = state_.next();
  const std::uint32_t write = state_.stores[index].write;
  IoStatus& status = state_.writes[write].status;
  if (status == IoStatus::kOk) status = parked_->StatusOfStore(index);
  next.stores.Reset(index);
  if (--stores_left_[write] == 0 && write != next.write) done_writes_.Set(write);
}

void Connection::AnswerWrite(std::size_t index) {
  if (!dropped_writes_.Test(index)) {
    Reply(ErrorOf(state_.writes[index].status), state_.writes[index].cookie);
  }
  dropped_writes_.Reset(index);
  state_.next().writes.Reset(index);
}

// --- Parked requests ----------------------------------------------------------------------------

/// Answers the parked requests that are done, as long as there is room for replies.
void Connection::AnswerDone() {
  parked_->TakeDone(&done_);
  freed_ = done_.Any() || done_writes_.Any();
  std::exchange(done_.stores, {}).ForEach([this](std::size_t index) { FinishStore(index); });
  const auto writes = done_writes_;
  writes.ForEach([this](std::size_t index) {
    if (!HasReplyRoom(0)) return;
    AnswerWrite(index);
    done_writes_.Reset(index);
  });
  const auto reads = done_.reads;
  reads.ForEach([this](std::size_t index) {
    if (AnswerRead(index)) done_.reads.Reset(index);
  });
}

/// Starts those of the record again, or for the first time.
void Connection::RestartParked() {
  const Record& now = state_.record();
  now.stores.ForEach([this](std::size_t index) { ++stores_left_[state_.stores[index].write]; });
  now.writes.ForEach([&](std::size_t index) {
    if (stores_left_[index] == 0 && index != now.write) done_writes_.Set(index);
  });
  now.stores.ForEach([this](std::size_t index) {
    const IoStatus status = tier_->TryStore(
        state_.stores[index].slot, state_.store_pages[index].data(), parked_->store(index));
    if (status != IoStatus::kPending) parked_->NoteStore(index, status);
  });
  now.reads.ForEach(
      [this](std::size_t index) { parked_->StartRead(index, state_.reads[index], {}); });
}

/// Cancels the stores that wait in the tier. Their writes are not answered, nor is the one whose
/// payload is not complete. A store that completes meanwhile is done as others are.
void Connection::CancelWrites() {
  Record& now = state_.record();
  if (const std::uint32_t write = std::exchange(now.write, State::kNoWrite);
      write != State::kNoWrite) {
    dropped_writes_.Set(write);
    if (stores_left_[write] == 0) done_writes_.Set(write);
  }
  now.stores.ForEach([this](std::size_t index) {
    if (!tier_->CancelStore(parked_->store(index))) return;
    dropped_writes_.Set(state_.stores[index].write);
    parked_->NoteStore(index, IoStatus::kOk);
  });
}

}  // namespace farswap::nbd
