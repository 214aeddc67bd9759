// The client's end of a socketpair, for the tests of the NBD frontend.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <span>
#include <vector>

#include "nbd/wire.h"

namespace farswap::nbd {

using Bytes = std::vector<std::byte>;

inline Bytes RandomBytes(std::size_t count, unsigned seed) {
  std::mt19937_64 random(seed);
  Bytes bytes(count);
  for (std::size_t at = 0; at < count; at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random();
    std::memcpy(bytes.data() + at, &word, std::min(sizeof(word), count - at));
  }
  return bytes;
}

template <typename T>
void AppendBigEndian(Bytes& to, T value) {
  for (std::size_t i = sizeof(T); i-- > 0;) to.push_back(static_cast<std::byte>(value >> (8 * i)));
}

/// ==, as fast as memory is compared: the library compares std::byte one by one, which a sanitizer
/// makes dear.
inline bool Same(const Bytes& one, const Bytes& other) {
  return one.size() == other.size() && std::memcmp(one.data(), other.data(), one.size()) == 0;
}

/// A request as it goes over the wire, without payload.
inline Bytes RequestBytes(Command command, std::uint64_t cookie, std::uint64_t offset,
                          std::uint32_t length, std::uint16_t flags = 0) {
  Bytes bytes;
  AppendBigEndian(bytes, kRequestMagic);
  AppendBigEndian(bytes, flags);
  AppendBigEndian(bytes, static_cast<std::uint16_t>(command));
  AppendBigEndian(bytes, cookie);
  AppendBigEndian(bytes, offset);
  AppendBigEndian(bytes, length);
  return bytes;
}

inline void Append(Bytes& to, std::span<const std::byte> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

/// Owns one end of a stream socketpair; hands the other one out.
class Client {
 public:
  Client() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    socket_ = ends[0];
    server_end_ = ends[1];
  }
  ~Client() { Leave(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  int server_end() const { return server_end_; }
  int socket() const { return socket_; }

  void Leave() {
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
  }
  void Send(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      ASSERT_GT(sent, 0);
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
  }
  Bytes Receive(std::size_t count) {
    Bytes bytes(count);
    std::size_t got = 0;
    while (got < count) {
      const ssize_t n = recv(socket_, bytes.data() + got, count - got, 0);
      EXPECT_GT(n, 0) << "connection ended after " << got << " of " << count << " bytes";
      if (n <= 0) break;
      got += static_cast<std::size_t>(n);
    }
    return bytes;
  }
  /// Whether the server has closed the connection, without having sent anything more.
  bool AtEnd() {
    std::byte byte;
    return recv(socket_, &byte, 1, 0) <= 0;
  }
  bool AnythingToReceive(int timeout_ms) {
    pollfd wait{socket_, POLLIN, 0};
    return poll(&wait, 1, timeout_ms) > 0;
  }

  struct Reply {
    std::uint32_t error;
    std::uint64_t cookie;
  };
  Reply ReceiveReply() {
    const Bytes bytes = Receive(kSimpleReplyBytes);
    EXPECT_EQ(LoadBigEndian<std::uint32_t>(bytes.data()), kSimpleReplyMagic);
    return {LoadBigEndian<std::uint32_t>(bytes.data() + 4),
            LoadBigEndian<std::uint64_t>(bytes.data() + 8)};
  }
  /// Receives replies to READs in any order, data by cookie. `lengths`: of the requests.
  std::map<std::uint64_t, Bytes> ReceiveReads(std::map<std::uint64_t, std::size_t> lengths) {
    std::map<std::uint64_t, Bytes> data;
    while (data.size() < lengths.size() && !testing::Test::HasFailure()) {
      const Reply reply = ReceiveReply();
      EXPECT_EQ(reply.error, 0u);
      EXPECT_TRUE(lengths.contains(reply.cookie));
      EXPECT_FALSE(data.contains(reply.cookie));
      data[reply.cookie] = Receive(lengths[reply.cookie]);
    }
    return data;
  }

  // One request and its reply.
  std::uint32_t Do(Command command, std::uint64_t offset, std::uint32_t length,
                   std::uint16_t flags = 0) {
    Send(RequestBytes(command, ++cookie_, offset, length, flags));
    return OneReply();
  }
  std::uint32_t Write(std::uint64_t offset, std::span<const std::byte> bytes,
                      std::uint16_t flags = 0) {
    Bytes message = RequestBytes(Command::kWrite, ++cookie_, offset,
                                 static_cast<std::uint32_t>(bytes.size()), flags);
    Append(message, bytes);
    Send(message);
    return OneReply();
  }
  Bytes Read(std::uint64_t offset, std::uint32_t length) {
    EXPECT_EQ(Do(Command::kRead, offset, length), 0u);
    return Receive(length);
  }

 private:
  std::uint32_t OneReply() {
    const Reply reply = ReceiveReply();
    EXPECT_EQ(reply.cookie, cookie_);
    return reply.error;
  }

  int socket_ = -1;
  int server_end_ = -1;
  std::uint64_t cookie_ = 0;
};

}  // namespace farswap::nbd
