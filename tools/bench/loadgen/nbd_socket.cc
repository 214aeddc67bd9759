#include "loadgen/nbd_socket.h"

#include <endian.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

namespace farswap::bench {
namespace {

constexpr std::uint64_t kInitMagic = 0x4e42444d41474943ULL;    // "NBDMAGIC"
constexpr std::uint64_t kOptionMagic = 0x49484156454f5054ULL;  // "IHAVEOPT"
constexpr std::uint64_t kOptionReplyMagic = 0x3e889045565a9ULL;
constexpr std::uint16_t kServerFixedNewstyle = 1;
constexpr std::uint32_t kClientFixedNewstyleNoZeroes = 3;
constexpr std::uint32_t kOptionGo = 7;
constexpr std::uint32_t kReplyAck = 1;
constexpr std::uint32_t kReplyInfo = 3;
constexpr std::uint32_t kReplyErrorBit = std::uint32_t{1} << 31;
constexpr std::uint16_t kInfoExport = 0;
constexpr std::uint32_t kOptionReplyBytesMax = 64 << 10;

template <typename T>
void Put(std::byte** out, T value) {
  std::memcpy(*out, &value, sizeof(value));
  *out += sizeof(value);
}

template <typename T>
T Get(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

Result<int> ConnectUnix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return Error{path + ": too long for a unix socket"};
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    Error error{path + ": " + std::strerror(errno)};
    if (fd >= 0) {
      close(fd);
    }
    return error;
  }
  return fd;
}

Result<int> ConnectTcp(const std::string& host_port) {
  const std::size_t colon = host_port.rfind(':');
  if (colon == std::string::npos) {
    return Error{"tcp:HOST:PORT, not " + host_port};
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int rc = getaddrinfo(host_port.substr(0, colon).c_str(),
                             host_port.substr(colon + 1).c_str(), &hints, &found);
  if (rc != 0) {
    return Error{host_port + ": " + gai_strerror(rc)};
  }
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool connected = fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) == 0;
  const int connect_errno = errno;
  freeaddrinfo(found);
  if (!connected) {
    if (fd >= 0) {
      close(fd);
    }
    return Error{host_port + ": " + std::strerror(connect_errno)};
  }
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  return fd;
}

}  // namespace

void PackRequest(std::uint16_t flags, std::uint16_t command, std::uint64_t handle,
                 std::uint64_t offset, std::uint32_t length, std::byte* out) {
  Put(&out, htobe32(kRequestMagic));
  Put(&out, htobe16(flags));
  Put(&out, htobe16(command));
  Put(&out, handle);  // opaque to the server: our own byte order
  Put(&out, htobe64(offset));
  Put(&out, htobe32(length));
}

Reply UnpackReply(const std::byte* bytes) {
  return Reply{be32toh(Get<std::uint32_t>(bytes)), be32toh(Get<std::uint32_t>(bytes + 4)),
               Get<std::uint64_t>(bytes + 8)};
}

NbdSocket::NbdSocket(NbdSocket&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), export_(other.export_) {}

NbdSocket::~NbdSocket() {
  if (fd_ >= 0) {
    close(fd_);
  }
}

Result<NbdSocket> NbdSocket::Connect(const std::string& address, const std::string& export_name) {
  const bool is_unix = address.starts_with("unix:");
  if (!is_unix && !address.starts_with("tcp:")) {
    return Error{"an address is unix:PATH or tcp:HOST:PORT, not " + address};
  }
  auto fd = is_unix ? ConnectUnix(address.substr(5)) : ConnectTcp(address.substr(4));
  if (!fd.ok()) {
    return fd.error();
  }
  NbdSocket connected(fd.value());
  Outcome outcome = connected.Handshake(export_name);
  if (!outcome.ok()) {
    return Error{address + ": " + outcome.error().message};
  }
  return connected;
}

Outcome NbdSocket::ReadExactly(void* out, std::size_t length) {
  auto* at = static_cast<std::byte*>(out);
  while (length > 0) {
    const ssize_t got = recv(fd_, at, length, 0);
    if (got <= 0) {
      return Error{got == 0 ? "closed during the handshake" : std::strerror(errno)};
    }
    at += got;
    length -= static_cast<std::size_t>(got);
  }
  return std::monostate{};
}

Outcome NbdSocket::WriteAll(const void* bytes, std::size_t length) {
  const ssize_t sent = send(fd_, bytes, length, MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(length)) {
    return Error{"handshake could not be sent"};
  }
  return std::monostate{};
}

Outcome NbdSocket::Handshake(const std::string& export_name) {
  std::byte greeting[18];
  Outcome outcome = ReadExactly(greeting, sizeof(greeting));
  if (!outcome.ok()) {
    return outcome;
  }
  if (be64toh(Get<std::uint64_t>(greeting)) != kInitMagic ||
      be64toh(Get<std::uint64_t>(greeting + 8)) != kOptionMagic ||
      (be16toh(Get<std::uint16_t>(greeting + 16)) & kServerFixedNewstyle) == 0) {
    return Error{"not a fixed newstyle NBD server"};
  }
  std::vector<std::byte> message(4 + 16 + 4 + export_name.size() + 2);
  std::byte* out = message.data();
  Put(&out, htobe32(kClientFixedNewstyleNoZeroes));
  Put(&out, htobe64(kOptionMagic));
  Put(&out, htobe32(kOptionGo));
  Put(&out, htobe32(static_cast<std::uint32_t>(4 + export_name.size() + 2)));
  Put(&out, htobe32(static_cast<std::uint32_t>(export_name.size())));
  std::memcpy(out, export_name.data(), export_name.size());  // the last two bytes: no info requests
  outcome = WriteAll(message.data(), message.size());
  return outcome.ok() ? ReadGoReplies() : outcome;
}

Outcome NbdSocket::ReadGoReplies() {
  bool have_export = false;
  while (true) {
    std::byte head[20];
    Outcome outcome = ReadExactly(head, sizeof(head));
    if (!outcome.ok()) {
      return outcome;
    }
    const auto type = be32toh(Get<std::uint32_t>(head + 12));
    const auto length = be32toh(Get<std::uint32_t>(head + 16));
    if (be64toh(Get<std::uint64_t>(head)) != kOptionReplyMagic || length > kOptionReplyBytesMax) {
      return Error{"malformed option reply"};
    }
    std::vector<std::byte> body(length);
    outcome = ReadExactly(body.data(), length);
    if (!outcome.ok()) {
      return outcome;
    }
    if ((type & kReplyErrorBit) != 0) {
      return Error{"export refused: " +
                   std::string(reinterpret_cast<const char*>(body.data()), body.size())};
    }
    if (type == kReplyInfo && length >= 12 &&
        be16toh(Get<std::uint16_t>(body.data())) == kInfoExport) {
      export_.bytes = be64toh(Get<std::uint64_t>(body.data() + 2));
      export_.flags = be16toh(Get<std::uint16_t>(body.data() + 10));
      have_export = true;
    }
    if (type == kReplyAck) {
      return have_export ? Outcome(std::monostate{})
                         : Outcome(Error{"no NBD_INFO_EXPORT before the ack"});
    }
  }
}

}  // namespace farswap::bench
