// A client's side of an NBD connection up to transmission: connects, does the fixed newstyle
// handshake with NBD_OPT_GO, and hands out the socket. The protocol's numbers that the load
// generator needs are here too (github.com/NetworkBlockDevice/nbd, doc/proto.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/result.h"

namespace farswap::bench {

inline constexpr std::uint32_t kRequestMagic = 0x25609513;
inline constexpr std::uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr std::size_t kRequestBytes = 28;
inline constexpr std::size_t kReplyBytes = 16;

inline constexpr std::uint16_t kCommandRead = 0;
inline constexpr std::uint16_t kCommandWrite = 1;
inline constexpr std::uint16_t kCommandDisconnect = 2;
inline constexpr std::uint16_t kCommandFlush = 3;
inline constexpr std::uint16_t kCommandTrim = 4;
inline constexpr std::uint16_t kCommandWriteZeroes = 6;
inline constexpr std::uint16_t kCommandFlagFua = 1;

inline constexpr std::uint16_t kFlagSendFlush = 1 << 2;
inline constexpr std::uint16_t kFlagSendFua = 1 << 3;
inline constexpr std::uint16_t kFlagSendTrim = 1 << 5;
inline constexpr std::uint16_t kFlagSendWriteZeroes = 1 << 6;
inline constexpr std::uint16_t kFlagCanMultiConn = 1 << 8;

struct Export {
  std::uint64_t bytes = 0;
  std::uint16_t flags = 0;
};

/// The wire's 28 bytes.
void PackRequest(std::uint16_t flags, std::uint16_t command, std::uint64_t handle,
                 std::uint64_t offset, std::uint32_t length, std::byte* out);

struct Reply {
  std::uint32_t magic;
  std::uint32_t error;
  std::uint64_t handle;
};
Reply UnpackReply(const std::byte* bytes);

/// Owns a connected socket; closes it.
class NbdSocket {
 public:
  /// `address` is unix:PATH or tcp:HOST:PORT.
  static Result<NbdSocket> Connect(const std::string& address, const std::string& export_name);
  ~NbdSocket();
  NbdSocket(NbdSocket&& other) noexcept;
  NbdSocket& operator=(NbdSocket&&) = delete;

  int fd() const { return fd_; }
  const Export& exported() const { return export_; }

 private:
  explicit NbdSocket(int fd) : fd_(fd) {}
  Outcome Handshake(const std::string& export_name);
  Outcome ReadGoReplies();
  Outcome ReadExactly(void* out, std::size_t length);
  Outcome WriteAll(const void* bytes, std::size_t length);

  int fd_;
  Export export_;
};

}  // namespace farswap::bench
