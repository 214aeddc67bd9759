#include "nbd/connection.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/step.h"
#include "tier/codec.h"

namespace farswap::nbd {

using tier::PageDevice;

// --- Life ---------------------------------------------------------------------------------------

Result<std::unique_ptr<Connection>> Connection::Create(PageDevice* tier, std::uint64_t export_bytes,
                                                       int socket,
                                                       std::span<const std::byte> initial) {
  FileDescriptor owned(socket);
  if (initial.size() > State::kReceiveBytes) return Error{"too many bytes after the handshake"};
  const int flags = fcntl(socket, F_GETFL);
  if (flags < 0 || fcntl(socket, F_SETFL, flags & ~O_NONBLOCK) < 0) {
    return Error{std::string("failed to make the socket blocking: ") + std::strerror(errno)};
  }
  auto memory = Memory::Create(sizeof(ConnectionState), "nbd connection");
  if (!memory.ok()) return memory.error();
  ConnectionState* const state =
      State::Begin({memory.value()->data(), memory.value()->bytes()}, initial);
  auto made = Resume(tier, export_bytes, state,
                     std::make_unique<StreamSocket>(owned.release(), &state->stream));
  if (made.ok()) made.value()->memory_ = std::move(memory.value());
  return made;
}

Result<std::unique_ptr<Connection>> Connection::Resume(PageDevice* tier, std::uint64_t export_bytes,
                                                       ConnectionState* state,
                                                       std::unique_ptr<StreamSocket> socket) {
  std::unique_ptr<Connection> connection(
      new Connection(tier, export_bytes, state, std::move(socket)));
  connection->wake_ = FileDescriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!connection->wake_.open()) return Error{std::string("eventfd: ") + std::strerror(errno)};
  auto parked = ParkedRequests::Create(tier, connection.get());
  if (!parked.ok()) return parked.error();
  connection->parked_ = std::move(parked.value());
  return connection;
}

void Connection::Run() {
  // Now, before any page is stored: a later failure would be an EIO.
  if (!tier::PrepareThreadForPages().ok()) return;
  state_.mutex.Lock();
  Continue();
  while (Finish(/*may_wait=*/true) && Receive()) Execute(/*received=*/true);
  Close();
  state_.mutex.Unlock();
  parked_->AwaitQuiet();
}

/// Goes on where the state is: with an empty one, or in the middle of a generation.
void Connection::Continue() {
  if (state_.record().ready.load(std::memory_order_acquire)) Finish(/*may_wait=*/true);
  const Record& record = state_.record();
  parser_.set_position(record.parser);
  begin_ = record.begin;
  end_ = record.end + (socket_->position().received - record.stream.received);
  FARSWAP_CHECK(end_ <= State::kReceiveBytes);
  if (record.ended) stop_ = Stop::kEnded;
  RestartParked();
}

void Connection::Close() {
  Finish(/*may_wait=*/true);
  CancelWrites();
  while (AnyParked()) {  // ends: fetches have a deadline, and cancelled stores are done
    if (!AnyDone()) parked_->AwaitDone();
    Execute(/*received=*/false);
    Finish(/*may_wait=*/true);
  }
}

bool Connection::AnyParked() const {
  const Record& record = state_.record();
  return record.reads.Any() || record.writes.Any();
}

// --- Steps of a generation ----------------------------------------------------------------------

/// Step 1, with nothing to receive if there is work without. False: the client has ended.
bool Connection::Receive() {
  if (gone_ || stop_ == Stop::kEnded) return false;
  if (stop_ == Stop::kNeedsMemory && !freed_ && !AnyDone()) parked_->AwaitDone();
  if (stop_ != Stop::kNeedsBytes) return true;
  for (;;) {  // ends with the connection: shutdown(2) makes the socket readable
    const bool parked = AnyParked();
    if (parked && AnyDone()) return true;
    const ssize_t got =
        socket_->Receive({state_.received.data() + end_, State::kReceiveBytes - end_}, !parked);
    if (got > 0) {
      end_ += static_cast<std::size_t>(got);
      Reach(Step::kReceived);
      return true;
    }
    if (got != -EAGAIN || !WaitReadable()) return false;
    // A completion has left its replies, or its generation.
    if (!Finish(/*may_wait=*/true)) return false;
  }
}

/// Waits for the client, with the mutex free.
bool Connection::WaitReadable() {
  state_.mutex.Unlock();
  std::array<pollfd, 2> waits{{{socket_->fd(), POLLIN, 0}, {wake_.get(), POLLIN, 0}}};
  bool good = true;
  // A part that is done after this look finds the mutex free.
  while (good && !parked_->AnyDone() && waits[0].revents == 0 && waits[1].revents == 0) {
    good = poll(waits.data(), waits.size(), -1) >= 0 || errno == EINTR;
  }
  if (waits[1].revents != 0) {
    std::uint64_t wakes;
    [[maybe_unused]] const ssize_t got = read(wake_.get(), &wakes, sizeof(wakes));
  }
  state_.mutex.Lock();
  return good;
}

/// Step 2.
void Connection::Execute(bool received) {
  Record& now = state_.record();
  Record& next = state_.next();
  FARSWAP_CHECK(!now.ready.load(std::memory_order_relaxed));
  next.reads = now.reads;
  next.writes = now.writes;
  next.stores = now.stores;
  next.write = now.write;
  next.write_status = now.write_status;
  reply_end_ = 0;
  freed_ = false;
  if (received) ++now.executions;
  AnswerDone();
  if (received) HandleReceived();
  MakeReady();
}

/// Step 3.
void Connection::MakeReady() {
  Record& now = state_.record();
  Record& next = state_.next();
  const std::size_t rest = end_ - begin_;
  next.moved_from = static_cast<std::uint32_t>(begin_);
  // All of a small rest is moved, if it does not overlap its new place; else there is room behind.
  if (rest == 0 || (stop_ == Stop::kNeedsBytes && begin_ >= rest)) begin_ = 0;
  end_ = begin_ + rest;
  next.begin = static_cast<std::uint32_t>(begin_);
  next.end = static_cast<std::uint32_t>(end_);
  next.stream = {socket_->position().received, now.stream.sent + reply_end_};
  next.parser = parser_.position();
  next.ended = stop_ == Stop::kEnded;
  const bool suspect = now.executions > State::kExecutionsMax && stop_ != Stop::kNeedsBytes;
  next.executions = suspect ? State::kExecutionsMax : 0;
  next.ready.store(false, std::memory_order_relaxed);
  now.reply_bytes = static_cast<std::uint32_t>(reply_end_);
  Reach(Step::kExecuted);
  now.ready.store(true, std::memory_order_release);
  Reach(Step::kReady);
}

/// Steps 4 to 6 of a generation that is ready. False: the socket is full, and it stays ready.
bool Connection::Finish(bool may_wait) {
  Record& now = state_.record();
  if (!now.ready.load(std::memory_order_relaxed)) return true;
  while (!gone_) {
    const std::uint64_t sent = socket_->position().sent - now.stream.sent;
    FARSWAP_CHECK(sent <= now.reply_bytes);
    if (sent == now.reply_bytes) break;
    const ssize_t more =
        socket_->Send({state_.reply.data() + sent, now.reply_bytes - sent}, may_wait);
    if (more == -EAGAIN) return false;
    if (more <= 0) gone_ = true;
    Reach(Step::kSent);
  }
  const Record& next = state_.next();
  if (next.moved_from != next.begin) {
    std::memcpy(state_.received.data() + next.begin, state_.received.data() + next.moved_from,
                next.end - next.begin);
  }
  Reach(Step::kMovedRest);
  state_.generation.fetch_add(1, std::memory_order_release);
  Reach(Step::kNextGeneration);
  return true;
}

/// A generation that receives nothing, on the thread of a completion.
bool Connection::AnswerAndRelease() {
  bool answered = Finish(/*may_wait=*/false);
  while (answered && AnyDone()) {
    Execute(/*received=*/false);
    answered = Finish(/*may_wait=*/false);
  }
  if (!answered) {
    const std::uint64_t one = 1;
    // Fails only if it is readable already.
    [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
  }
  state_.mutex.Unlock();
  return answered;
}

}  // namespace farswap::nbd
