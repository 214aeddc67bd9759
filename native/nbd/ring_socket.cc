#include "nbd/ring_socket.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/step.h"

namespace farswap::nbd {
namespace {

// A client that has sent so much at once has probably sent more by the next call.
constexpr ssize_t kBusyBytes = 16 << 10;
// In a request's data: what it is; the position before it is below.
constexpr std::uint64_t kSends = std::uint64_t{1} << 63;
constexpr std::uint64_t kNothing = std::uint64_t{1} << 62;
constexpr std::uint64_t kPosition = kNothing - 1;

std::uint32_t Acquire(std::uint32_t* word) {
  return std::atomic_ref(*word).load(std::memory_order_acquire);
}
void Release(std::uint32_t* word, std::uint32_t value) {
  std::atomic_ref(*word).store(value, std::memory_order_release);
}

Error Failure(const char* what) { return Error{std::string(what) + ": " + std::strerror(errno)}; }

}  // namespace

Result<std::unique_ptr<RingSocket>> RingSocket::Create(int socket, int ring,
                                                       const io_uring_params& parameters,
                                                       StreamPosition* position) {
  std::unique_ptr<RingSocket> made(new RingSocket(socket, ring, position));
  if (const Outcome mapped = made->Map(parameters); !mapped.ok()) return mapped.error();
  made->Recover();
  return made;
}

Outcome RingSocket::Map(const io_uring_params& parameters) {
  const auto map = [this](std::size_t bytes, off_t offset) -> void* {
    return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_, offset);
  };
  const std::size_t submit_bytes =
      parameters.sq_off.array + parameters.sq_entries * sizeof(std::uint32_t);
  const std::size_t result_bytes =
      parameters.cq_off.cqes + parameters.cq_entries * sizeof(io_uring_cqe);
  const std::size_t rings_bytes = submit_bytes > result_bytes ? submit_bytes : result_bytes;
  void* const rings = map(rings_bytes, IORING_OFF_SQ_RING);
  if (rings == MAP_FAILED) return Failure("failed to map an io_uring");
  rings_ = static_cast<std::byte*>(rings);
  rings_bytes_ = rings_bytes;
  const std::size_t requests_bytes = parameters.sq_entries * sizeof(io_uring_sqe);
  void* const requests = map(requests_bytes, IORING_OFF_SQES);
  if (requests == MAP_FAILED) return Failure("failed to map an io_uring");
  requests_ = static_cast<io_uring_sqe*>(requests);
  requests_bytes_ = requests_bytes;
  const auto word = [this](std::uint32_t offset) {
    return reinterpret_cast<std::uint32_t*>(rings_ + offset);
  };
  submit_head_ = word(parameters.sq_off.head);
  submit_tail_ = word(parameters.sq_off.tail);
  submit_mask_ = *word(parameters.sq_off.ring_mask);
  submit_order_ = word(parameters.sq_off.array);
  result_head_ = word(parameters.cq_off.head);
  result_tail_ = word(parameters.cq_off.tail);
  result_mask_ = *word(parameters.cq_off.ring_mask);
  results_ = reinterpret_cast<io_uring_cqe*>(rings_ + parameters.cq_off.cqes);
  return std::monostate{};
}

RingSocket::~RingSocket() {
  if (on_end_) {
    Shutdown();
    on_end_();
  }
  if (rings_ != nullptr) munmap(rings_, rings_bytes_);
  if (requests_ != nullptr) munmap(requests_, requests_bytes_);
}

/// May be repeated after a death at any instruction.
void RingSocket::Recover() {
  Reap();
  const std::uint32_t tail = *submit_tail_;
  for (std::uint32_t at = Acquire(submit_head_); at != tail; ++at) {
    io_uring_sqe& request = requests_[submit_order_[at & submit_mask_]];
    request.opcode = IORING_OP_NOP;
    request.user_data = kNothing;
  }
  while (Acquire(submit_head_) != tail) Enter();
}

/// Takes results into the position. May be repeated: each has the position before it.
std::int32_t RingSocket::Reap() {
  std::int32_t last = -EAGAIN;
  for (std::uint32_t head = *result_head_; head != Acquire(result_tail_); ++head) {
    const io_uring_cqe& result = results_[head & result_mask_];
    last = result.res;
    if (last > 0) {
      const std::uint64_t reached =
          (result.user_data & kPosition) + static_cast<std::uint64_t>(last);
      if ((result.user_data & kNothing) == 0) {
        ((result.user_data & kSends) != 0 ? position_.sent : position_.received) = reached;
      }
    }
    Release(result_head_, head + 1);
  }
  return last;
}

/// Submits all requests, and takes the results.
std::int32_t RingSocket::Enter() {
  for (;;) {  // ends: no request waits
    const std::uint32_t count = *submit_tail_ - Acquire(submit_head_);
    const long entered = syscall(SYS_io_uring_enter, ring_, count, count == 0 ? 0 : 1,
                                 IORING_ENTER_GETEVENTS, nullptr, 0);
    Reach(Step::kEntered);
    if (*result_head_ != Acquire(result_tail_)) return Reap();
    if (entered < 0 && errno != EINTR && errno != EAGAIN && errno != EBUSY) return -errno;
  }
}

std::int32_t RingSocket::Submit(std::uint8_t operation, std::uint64_t data, const std::byte* bytes,
                                std::size_t count) {
  const std::uint32_t tail = *submit_tail_;
  const std::uint32_t index = tail & submit_mask_;
  io_uring_sqe& request = requests_[index];
  std::memset(&request, 0, sizeof(request));
  request.opcode = operation;
  request.fd = socket_;
  request.addr = reinterpret_cast<std::uint64_t>(bytes);
  request.len = static_cast<std::uint32_t>(count);
  request.msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL;
  request.user_data = data;
  submit_order_[index] = index;
  Release(submit_tail_, tail + 1);
  Reach(Step::kSubmitted);
  return Enter();
}

ssize_t RingSocket::Do(std::uint8_t operation, std::uint64_t data, const std::byte* bytes,
                       std::size_t count, bool may_wait, bool wait_first) {
  const short readiness = operation == IORING_OP_RECV ? POLLIN : POLLOUT;
  for (bool wait = wait_first;; wait = true) {  // ends: shutdown(2) makes the socket ready
    pollfd ready{socket_, readiness, 0};
    if (wait && poll(&ready, 1, -1) < 0 && errno != EINTR) return -errno;
    const std::int32_t result = Submit(operation, data, bytes, count);
    if (result != -EAGAIN || !may_wait) return result;
  }
}

ssize_t RingSocket::Receive(std::span<std::byte> to, bool may_wait) {
  const ssize_t got =
      Do(IORING_OP_RECV, position_.received, to.data(), to.size(), may_wait, may_wait && is_idle_);
  is_idle_ = got < kBusyBytes;
  return got;
}

ssize_t RingSocket::Send(std::span<const std::byte> bytes, bool may_wait) {
  return Do(IORING_OP_SEND, position_.sent | kSends, bytes.data(), bytes.size(), may_wait,
            /*wait_first=*/false);
}

}  // namespace farswap::nbd
