// A unix socket whose positions are exact after the death of its process. Each system call on it is
// a request of an io_uring that the processes share. The kernel itself writes its result into the
// ring, with the position before it, so a successor finds what the last one did.
//
//   the process died                   the successor
//   before the request was submitted   turns it into one that does nothing
//   in or after the system call        takes its result from the ring
//
// A request never outlives its system call: it completes at once, or fails with EAGAIN.
#pragma once

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "base/result.h"
#include "nbd/stream_socket.h"

namespace farswap::nbd {

class RingSocket final : public StreamSocket {
 public:
  /// Takes over the socket, also on failure, and borrows the ring, of eight requests or more, which
  /// all processes that serve the connection inherit. No other process may use them now.
  /// Sets the position to what has been received and sent.
  static Result<std::unique_ptr<RingSocket>> Create(int socket, int ring,
                                                    const io_uring_params& parameters,
                                                    StreamPosition* position);
  ~RingSocket() override;
  /// `on_end` is called when this process ends the connection, whose peer then sees its end
  /// although other processes hold the socket.
  void OnEnd(std::function<void()> on_end) { on_end_ = std::move(on_end); }

  ssize_t Receive(std::span<std::byte> to, bool may_wait) override;
  ssize_t Send(std::span<const std::byte> bytes, bool may_wait) override;

 private:
  RingSocket(int socket, int ring, StreamPosition* position)
      : StreamSocket(socket, position), ring_(ring) {}

  Outcome Map(const io_uring_params& parameters);
  void Recover();
  ssize_t Do(std::uint8_t operation, std::uint64_t data, const std::byte* bytes, std::size_t count,
             bool may_wait, bool wait_first);
  std::int32_t Submit(std::uint8_t operation, std::uint64_t data, const std::byte* bytes,
                      std::size_t count);
  std::int32_t Enter();
  std::int32_t Reap();

  std::function<void()> on_end_;
  const int ring_;
  bool is_idle_ = true;  // to wait first saves a request that fails
  std::byte* rings_ = nullptr;
  std::size_t rings_bytes_ = 0;
  io_uring_sqe* requests_ = nullptr;
  std::size_t requests_bytes_ = 0;
  io_uring_cqe* results_ = nullptr;
  // Heads and tails are shared with the kernel, which reads the submission's tail only in a system
  // call: release for what the kernel reads, acquire for what it has written.
  std::uint32_t* submit_head_ = nullptr;
  std::uint32_t* submit_tail_ = nullptr;
  std::uint32_t* submit_order_ = nullptr;
  std::uint32_t submit_mask_ = 0;
  std::uint32_t* result_head_ = nullptr;
  std::uint32_t* result_tail_ = nullptr;
  std::uint32_t result_mask_ = 0;
};

}  // namespace farswap::nbd
