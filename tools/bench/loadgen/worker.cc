#include "loadgen/worker.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <thread>
#include <utility>

namespace farswap::bench {
namespace {

constexpr std::size_t kIovecsMax = 512;
constexpr std::chrono::milliseconds kRatePause{1};
constexpr int kConflictsMax = 16;  // draws that overlap something in flight, before waiting

std::uint16_t CommandOf(Op op) {
  switch (op) {
    case Op::kRead:
      return kCommandRead;
    case Op::kWrite:
      return kCommandWrite;
    case Op::kTrim:
      return kCommandTrim;
    case Op::kZero:
      return kCommandWriteZeroes;
    case Op::kFlush:
      return kCommandFlush;
  }
  return kCommandRead;
}

}  // namespace

std::atomic<bool> stop_requested{false};
std::atomic<bool> phase_ended{false};
std::atomic<bool> latency_marked{false};

std::uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000000000ULL +
         static_cast<std::uint64_t>(now.tv_nsec);
}

Worker::Worker(std::uint32_t index, NbdSocket socket, const Options& options, History* history)
    : index_(index),
      socket_(std::move(socket)),
      options_(options),
      history_(history),
      in_(kReceiveBytes) {
  const timeval timeout{0, kPollMs * 1000};
  setsockopt(socket_.fd(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
}

Worker::~Worker() {
  std::byte header[kRequestBytes];
  PackRequest(0, kCommandDisconnect, 0, 0, 0, header);
  (void)send(socket_.fd(), header, sizeof(header), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void Worker::Prepare(const Phase& phase, PhaseResult* result) {
  phase_ = &phase;
  result_ = result;
  requests_.clear();
  requests_.resize(phase.depth);
  free_.clear();
  for (std::uint32_t i = 0; i < phase.depth; ++i) {
    free_.push_back(i);
  }
  headers_.assign(phase.depth * kRequestBytes, std::byte{0});
  page_ops_issued_ = 0;
  postponed_.reset();
  out_.clear();
  out_done_ = 0;
  in_begin_ = in_end_ = 0;
}

void Worker::Run(const Phase& phase, std::uint64_t page_ops_max, PhaseResult* result) {
  Prepare(phase, result);
  const std::uint32_t workers = phase.connections == 0 ? options_.connections : phase.connections;
  OpSource source(phase, index_, workers, exported().bytes / kPageBytes, options_.shared,
                  Mix(options_.seed) ^ Mix(serial_), *history_);
  now_ns_ = last_reply_ns_ = began_ns_ = NowNs();
  const std::uint64_t deadline_ns =
      phase.seconds > 0 ? now_ns_ + static_cast<std::uint64_t>(phase.seconds * 1e9) : ~0ULL;
  bool more = true;
  while (true) {
    more = more && now_ns_ < deadline_ns && !stop_requested.load(std::memory_order_relaxed) &&
           !phase_ended.load(std::memory_order_relaxed) &&
           (AheadOfRate() || Refill(&source, page_ops_max));
    if (free_.size() == phase.depth) {
      if (!more) {
        return;
      }
      if (AheadOfRate()) {
        std::this_thread::sleep_for(kRatePause);
      }
      now_ns_ = NowNs();
      continue;
    }
    if (!Flush() || !Receive()) {
      stop_requested = true;
      return;
    }
    now_ns_ = NowNs();
  }
}

bool Worker::AheadOfRate() const {
  if (phase_->rate == 0) {
    return false;
  }
  const std::uint32_t workers =
      phase_->connections == 0 ? options_.connections : phase_->connections;
  const double seconds = static_cast<double>(now_ns_ - began_ns_) / 1e9;
  return static_cast<double>(page_ops_issued_) * workers >
         seconds * static_cast<double>(phase_->rate);
}

bool Worker::Refill(OpSource* source, std::uint64_t page_ops_max) {
  int conflicts = 0;
  while (!free_.empty() && conflicts < kConflictsMax) {
    if (page_ops_max != 0 && page_ops_issued_ >= page_ops_max) {
      return false;
    }
    const std::optional<Draft> draft = postponed_ ? postponed_ : source->Next();
    if (!draft) {
      return false;
    }
    postponed_.reset();
    if (Issue(*draft)) {
      continue;
    }
    ++conflicts;
    if (phase_->order != Order::kRandom) {
      postponed_ = draft;
      return true;
    }
  }
  return true;
}

bool Worker::Issue(const Draft& draft) {
  const std::uint32_t index = free_.back();
  Request& request = requests_[index];
  request.op = draft.op;
  request.offset = draft.offset;
  request.length = draft.length;
  if (!history_->Begin(index_, &request)) {
    return false;
  }
  free_.pop_back();
  request.in_flight = true;
  request.handle = (++serial_ << 32) | index;
  request.issued_ns = now_ns_;
  page_ops_issued_ += draft.op == Op::kFlush ? 1 : draft.pages();
  Queue(request, static_cast<std::size_t>(serial_ % phase_->depth));
  return true;
}

void Worker::Queue(const Request& request, std::size_t index) {
  std::byte* header = headers_.data() + index * kRequestBytes;
  const bool changes = request.op != Op::kRead && request.op != Op::kFlush;
  const bool fua = phase_->fua && changes && (exported().flags & kFlagSendFua) != 0;
  PackRequest(fua ? kCommandFlagFua : 0, CommandOf(request.op), request.handle, request.offset,
              request.length, header);
  QueueBytes(header, kRequestBytes);
  if (request.op == Op::kWrite) {
    QueueBytes(request.payload, request.length);
  }
}

void Worker::QueueBytes(const std::byte* bytes, std::size_t length) {
  if (out_.size() > out_done_) {
    iovec& last = out_.back();
    if (static_cast<std::byte*>(last.iov_base) + last.iov_len == bytes) {
      last.iov_len += length;
      return;
    }
  }
  out_.push_back(iovec{const_cast<std::byte*>(bytes), length});
}

bool Worker::Flush() {
  while (out_done_ < out_.size()) {
    msghdr message{};
    message.msg_iov = out_.data() + out_done_;
    message.msg_iovlen = std::min(out_.size() - out_done_, kIovecsMax);
    const ssize_t sent = sendmsg(socket_.fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EAGAIN || errno == EINTR) {
        return true;
      }
      return Fail(Trouble::kConnection, std::string("send: ") + std::strerror(errno));
    }
    auto left = static_cast<std::size_t>(sent);
    while (left > 0 && left >= out_[out_done_].iov_len) {
      left -= out_[out_done_].iov_len;
      ++out_done_;
    }
    if (left > 0) {
      iovec& partly = out_[out_done_];
      partly.iov_base = static_cast<std::byte*>(partly.iov_base) + left;
      partly.iov_len -= left;
    }
  }
  out_.clear();
  out_done_ = 0;
  return true;
}

bool Worker::Receive() {
  if (!out_.empty()) {
    pollfd event{socket_.fd(), POLLIN | POLLOUT, 0};
    const int ready = poll(&event, 1, kPollMs);
    if (ready == 0) {
      return CheckStall();
    }
    if (ready < 0 || (event.revents & POLLIN) == 0) {
      return true;
    }
  }
  return WaitAndReceive();
}

bool Worker::WaitAndReceive() {
  const ssize_t got = recv(socket_.fd(), in_.data() + in_end_, in_.size() - in_end_, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
    return CheckStall();
  }
  if (got <= 0) {
    return Fail(Trouble::kConnection, got == 0 ? std::string("the server closed the connection")
                                               : std::string("recv: ") + std::strerror(errno));
  }
  in_end_ += static_cast<std::size_t>(got);
  now_ns_ = last_reply_ns_ = NowNs();
  return TakeReplies();
}

bool Worker::TakeReplies() {
  std::size_t needed = kReplyBytes;
  while (in_end_ - in_begin_ >= kReplyBytes) {
    const Reply reply = UnpackReply(in_.data() + in_begin_);
    const std::uint64_t index = reply.handle & 0xffffffffULL;
    if (reply.magic != kSimpleReplyMagic || index >= requests_.size() ||
        !requests_[index].in_flight || requests_[index].handle != reply.handle) {
      return Fail(Trouble::kConnection, "a reply that answers nothing we sent");
    }
    const Request& request = requests_[index];
    needed = kReplyBytes;
    if (request.op == Op::kRead && reply.error == 0) {
      needed += request.length;
    }
    if (in_end_ - in_begin_ < needed) {
      break;
    }
    if (!TakeReply(reply, in_.data() + in_begin_ + kReplyBytes)) {
      return false;
    }
    in_begin_ += needed;
    needed = kReplyBytes;
  }
  if (in_begin_ == in_end_) {
    in_begin_ = in_end_ = 0;
  } else if (in_.size() - in_begin_ < needed || in_.size() - in_end_ < in_.size() / 4) {
    std::memmove(in_.data(), in_.data() + in_begin_, in_end_ - in_begin_);
    in_end_ -= in_begin_;
    in_begin_ = 0;
  }
  return true;
}

bool Worker::TakeReply(const Reply& reply, const std::byte* payload) {
  Request& request = requests_[reply.handle & 0xffffffffULL];
  request.in_flight = false;
  free_.push_back(static_cast<std::uint32_t>(reply.handle & 0xffffffffULL));
  const auto op = static_cast<std::size_t>(request.op);
  CountLatency(op, now_ns_ - request.issued_ns);
  history_->End(index_, &request, reply.error, payload, &result_->findings);
  const Draft draft{request.op, request.offset, request.length};
  result_->page_ops.fetch_add(request.op == Op::kFlush ? 1 : draft.pages(),
                              std::memory_order_relaxed);
  if (reply.error != 0) {
    ++result_->errors[op][reply.error];
    result_->errors_sum.fetch_add(1, std::memory_order_relaxed);
  } else if (request.op == Op::kRead) {
    result_->bytes_read += request.length;
  } else if (request.op == Op::kWrite) {
    result_->bytes_written += request.length;
  }
  result_->mismatches_sum.store(result_->findings.mismatched_pages, std::memory_order_relaxed);
  return true;
}

void Worker::CountLatency(std::size_t op, std::uint64_t latency_ns) {
  result_->latency[op].Count(latency_ns);
  if (latency_marked.load(std::memory_order_relaxed)) {
    result_->marked_latency[op].Count(latency_ns);
  }
  std::atomic<std::uint64_t>& slowest = result_->slowest_ns[op];
  if (latency_ns > slowest.load(std::memory_order_relaxed)) {
    slowest.store(latency_ns, std::memory_order_relaxed);
  }
}

bool Worker::CheckStall() {
  now_ns_ = NowNs();
  const std::uint64_t silent_ms = (now_ns_ - last_reply_ns_) / 1000000;
  if (silent_ms < options_.stall_ms) {
    return true;
  }
  std::string message = "no reply for " + std::to_string(silent_ms) + " ms; in flight:";
  std::size_t listed = 0;
  for (const Request& request : requests_) {
    if (request.in_flight && ++listed <= 8) {
      message += std::string(" ") + OpName(request.op) + " of " + std::to_string(request.length) +
                 " at slot " + std::to_string(request.first_slot()) + " for " +
                 std::to_string((now_ns_ - request.issued_ns) / 1000000) + " ms;";
    }
  }
  return Fail(Trouble::kStall, message + " " + std::to_string(listed) + " in all");
}

bool Worker::Fail(Trouble trouble, std::string message) {
  result_->trouble = trouble;
  result_->trouble_message = "connection " + std::to_string(index_) + ": " + std::move(message);
  return false;
}

}  // namespace farswap::bench
