#include "nbd/stream_socket.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "base/step.h"

namespace farswap::nbd {

StreamSocket::~StreamSocket() { close(socket_); }

void StreamSocket::Shutdown() { shutdown(socket_, SHUT_RDWR); }

ssize_t StreamSocket::Receive(std::span<std::byte> to, bool may_wait) {
  for (;;) {  // ends: signals are blocked
    const ssize_t got = recv(socket_, to.data(), to.size(), may_wait ? 0 : MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -errno;
    Reach(Step::kEntered);
    position_.received += static_cast<std::uint64_t>(got);
    return got;
  }
}

ssize_t StreamSocket::Send(std::span<const std::byte> bytes, bool may_wait) {
  for (;;) {  // ends: signals are blocked
    const ssize_t sent =
        send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL | (may_wait ? 0 : MSG_DONTWAIT));
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return -errno;
    Reach(Step::kEntered);
    position_.sent += static_cast<std::uint64_t>(sent);
    return sent;
  }
}

}  // namespace farswap::nbd
