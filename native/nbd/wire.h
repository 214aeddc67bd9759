// The NBD wire format of the transmission phase.
// Source: "The NBD protocol", https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md,
// sections "Transmission" and "Values". All integers are big endian.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace farswap::nbd {

// --- Messages -----------------------------------------------------------------------------------

/// NBD_REQUEST_MAGIC, first field of every request. Not ASCII: four arbitrary bytes "%`\x95\x13".
inline constexpr std::uint32_t kRequestMagic = 0x25609513;
/// NBD_SIMPLE_REPLY_MAGIC, first field of every simple reply. Not ASCII: "gDf\x98".
inline constexpr std::uint32_t kSimpleReplyMagic = 0x67446698;

/// magic:32 flags:16 type:16 cookie:64 offset:64 length:32
inline constexpr std::size_t kRequestBytes = 28;
/// magic:32 error:32 cookie:64, then the data of a successful READ
inline constexpr std::size_t kSimpleReplyBytes = 16;

/// Largest READ or WRITE, which the handshake announces as the maximum payload ("Block sizes").
inline constexpr std::uint32_t kPayloadBytesMax = std::uint32_t{2} << 20;

// --- Values -------------------------------------------------------------------------------------

/// NBD_CMD_*, the type of a request.
enum class Command : std::uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisconnect = 2,
  kFlush = 3,
  kTrim = 4,
  kCache = 5,
  kWriteZeroes = 6,
};

// NBD_CMD_FLAG_*, the flags of a request.
inline constexpr std::uint16_t kFlagFua = 1 << 0;       // legal on every command
inline constexpr std::uint16_t kFlagNoHole = 1 << 1;    // WRITE_ZEROES
inline constexpr std::uint16_t kFlagFastZero = 1 << 4;  // WRITE_ZEROES

/// NBD_E*, the error of a reply. The protocol's numbers, which are not errno's by definition.
enum class WireError : std::uint32_t {
  kNone = 0,
  kIo = 5,
  kInvalid = 22,
  kNoSpace = 28,
};

// --- Bytes --------------------------------------------------------------------------------------

template <typename T>
T LoadBigEndian(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  static_assert(std::endian::native == std::endian::little);
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
}

inline void StoreBigEndian(std::byte* to, std::uint32_t value) {
  value = __builtin_bswap32(value);
  std::memcpy(to, &value, sizeof(value));
}

/// Writes kSimpleReplyBytes at `to`. The client's cookie is kept in wire byte order and never
/// interpreted.
inline void PutSimpleReply(std::byte* to, WireError error, std::uint64_t cookie) {
  StoreBigEndian(to, kSimpleReplyMagic);
  StoreBigEndian(to + 4, static_cast<std::uint32_t>(error));
  std::memcpy(to + 8, &cookie, sizeof(cookie));
}

}  // namespace farswap::nbd
