#include "remote_chaos_proxy.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

namespace farswap::remote {

namespace {

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  return address;
}

void Require(bool condition) {
  if (!condition) std::abort();
}

void SetUp(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  Require(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
}

// Closes so that the peer sees a reset.
void Reset(int fd) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  close(fd);
}

}  // namespace

ChaosProxy::ChaosProxy(int target_port) : target_port_(target_port) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in address = Loopback(0);
  socklen_t length = sizeof(address);
  Require(bind(listener_, reinterpret_cast<sockaddr*>(&address), length) == 0);
  Require(listen(listener_, 64) == 0);
  Require(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  port_ = ntohs(address.sin_port);
  Require(pipe2(wake_fds_, O_CLOEXEC | O_NONBLOCK) == 0);
  thread_ = std::thread([this] { Run(); });
}

ChaosProxy::~ChaosProxy() {
  stopping_ = true;
  Wake();
  thread_.join();
  for (const auto& connection : connections_) {
    Reset(connection->pipes[0].from);
    Reset(connection->pipes[0].to);
  }
  for (const int fd : {listener_, wake_fds_[0], wake_fds_[1]}) close(fd);
}

void ChaosProxy::Stall(bool stalled) {
  stalled_ = stalled;
  Wake();
}

void ChaosProxy::Refuse(bool refuse) { refuse_ = refuse; }

void ChaosProxy::Delay(std::chrono::milliseconds delay) { delay_ms_ = delay.count(); }

void ChaosProxy::Ask(unsigned command) {
  const unsigned before = applied_;
  commands_ |= command;
  Wake();
  applied_.wait(before);
}

void ChaosProxy::Wake() { Require(write(wake_fds_[1], "", 1) == 1 || errno == EAGAIN); }

void ChaosProxy::Run() {
  while (!stopping_) {
    PollOnce();
    const unsigned commands = commands_.exchange(0);
    if (commands == 0) continue;
    Apply(commands);
    ++applied_;
    applied_.notify_all();
  }
}

void ChaosProxy::Apply(unsigned commands) {
  for (const auto& connection : connections_) {
    for (Pipe& pipe : connection->pipes) {
      if (commands & kHalfClose) shutdown(pipe.to, SHUT_WR);
      if (commands & kCut) Reset(pipe.from);
    }
  }
  if (commands & kCut) connections_.clear();
}

void ChaosProxy::Accept() {
  for (;;) {
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) return;
    const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in address = Loopback(target_port_);
    // A loopback connect is answered at once, by acceptance or by refusal.
    const bool connected = !refuse_ && connect(server, reinterpret_cast<const sockaddr*>(&address),
                                               sizeof(address)) == 0;
    if (!connected) {
      Reset(client);
      close(server);
      continue;
    }
    SetUp(client);
    SetUp(server);
    auto connection = std::make_unique<Connection>();
    connection->pipes[0] = {.from = client, .to = server, .chunks = {}};
    connection->pipes[1] = {.from = server, .to = client, .chunks = {}};
    connections_.push_back(std::move(connection));
  }
}

void ChaosProxy::PollOnce() {
  std::vector<pollfd> fds = {{listener_, POLLIN, 0}, {wake_fds_[0], POLLIN, 0}};
  bool waiting = false;
  if (!stalled_) {
    for (const auto& connection : connections_) {
      for (const Pipe& pipe : connection->pipes) {
        const bool room = !pipe.ended && pipe.chunks.size() < 256;
        fds.push_back({pipe.from, static_cast<short>(room ? POLLIN : 0), 0});
        waiting |= !pipe.chunks.empty();
      }
    }
  }
  const std::size_t watched = connections_.size();
  // Chunks that wait for their time, or for room at the other end, are tried again soon.
  poll(fds.data(), fds.size(), waiting ? 1 : 1000);
  std::array<std::byte, 64> drained;
  while (read(wake_fds_[0], drained.data(), drained.size()) > 0) continue;
  if (fds.size() > 2) {
    for (std::size_t i = 0; i < watched; ++i) {
      Connection* const connection = connections_[i].get();
      for (std::size_t side = 0; side < 2; ++side) {
        Pump(&connection->pipes[side], fds[2 + 2 * i + side].revents, &connection->dead);
      }
    }
  }
  if (fds[0].revents) Accept();
  std::erase_if(connections_, [](const std::unique_ptr<Connection>& connection) {
    const bool over =
        connection->dead || (connection->pipes[0].ended && connection->pipes[1].ended);
    if (over) {
      close(connection->pipes[0].from);
      close(connection->pipes[0].to);
    }
    return over;
  });
}

void ChaosProxy::Pump(Pipe* pipe, short events, bool* dead) {
  if (events & (POLLIN | POLLHUP | POLLERR)) {
    std::vector<std::byte> bytes(65536);
    const ssize_t got = recv(pipe->from, bytes.data(), bytes.size(), 0);
    if (got > 0) {
      bytes.resize(static_cast<std::size_t>(got));
      const auto due = Clock::now() + std::chrono::milliseconds(delay_ms_);
      pipe->chunks.push_back({due, std::move(bytes)});
    } else if (got == 0) {
      if (!pipe->ended) shutdown(pipe->to, SHUT_WR);
      pipe->ended = true;
    } else if (errno != EAGAIN) {
      *dead = true;
    }
  }
  if (!Flush(pipe)) *dead = true;
}

// False: the other end is gone.
bool ChaosProxy::Flush(Pipe* pipe) {
  while (!pipe->chunks.empty() && pipe->chunks.front().due <= Clock::now()) {
    Pipe::Chunk& chunk = pipe->chunks.front();
    const ssize_t sent = send(pipe->to, chunk.bytes.data() + chunk.sent,
                              chunk.bytes.size() - chunk.sent, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN;
    chunk.sent += static_cast<std::size_t>(sent);
    if (chunk.sent == chunk.bytes.size()) pipe->chunks.pop_front();
  }
  return true;
}

}  // namespace farswap::remote
