// The socket of a connection, and how many bytes have gone each way. The positions are written
// after the system call: a process that dies in between leaves them behind the truth. RingSocket
// does not.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace farswap::nbd {

struct StreamPosition {
  std::uint64_t received = 0;
  std::uint64_t sent = 0;
};

class StreamSocket {
 public:
  /// Takes over the socket. `position` is kept up to date.
  StreamSocket(int socket, StreamPosition* position) : socket_(socket), position_(*position) {}
  virtual ~StreamSocket();
  StreamSocket(const StreamSocket&) = delete;
  StreamSocket& operator=(const StreamSocket&) = delete;

  // For the holder of the connection's mutex. Both return a number of bytes or a negative errno;
  // -EAGAIN only if they may not wait.
  virtual ssize_t Receive(std::span<std::byte> to, bool may_wait);
  virtual ssize_t Send(std::span<const std::byte> bytes, bool may_wait);

  const StreamPosition& position() const { return position_; }
  int fd() const { return socket_; }
  /// Ends every wait. Any thread.
  void Shutdown();

 protected:
  const int socket_;
  StreamPosition& position_;
};

}  // namespace farswap::nbd
