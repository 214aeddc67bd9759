// Parser of the transmission phase, sans-IO: bytes in, events out. It owns no buffer and makes no
// system call. A connection calls Next() on the bytes it has received until an event needs more:
//
//   kRequest    a legal request. After a WRITE its payload follows as kPayload events.
//   kPayload    whole pages of that payload. Fewer bytes than a page wait for the next Next().
//   kRefused    an illegal request, its payload (if any) skipped: reply `refusal->error`.
//   kNeedBytes  call again with the unconsumed bytes and more behind them. Bytes of a payload that
//               is being skipped are consumed.
//   kBroken     the stream cannot be parsed any further: close it.
//
// ValidateRequest() has one reason per illegal input. Code that handles a request relies on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "nbd/wire.h"

namespace farswap::nbd {

struct Request {
  std::uint16_t flags = 0;
  Command command{};         // any number until validated
  std::uint64_t cookie = 0;  // in wire byte order
  std::uint64_t offset = 0;
  std::uint32_t length = 0;
};

/// Why a request is illegal, and the error that its reply carries.
struct RequestError {
  WireError error;
  const char* reason;
};

/// nullptr if the request is legal for an export of this size.
const RequestError* ValidateRequest(const Request& request, std::uint64_t export_bytes);

enum class ParserEventKind : std::uint8_t { kNeedBytes, kRequest, kPayload, kRefused, kBroken };

struct ParserEvent {
  ParserEventKind kind = ParserEventKind::kNeedBytes;
  bool last = false;                      // kPayload: the payload is complete
  std::size_t consumed = 0;               // bytes at the front that are done with
  const RequestError* refusal = nullptr;  // kRefused
  Request request;                        // kRequest, kRefused
  std::uint64_t offset = 0;               // kPayload: where it belongs on the device
  std::span<const std::byte> payload;     // kPayload: borrowed from the input
};

class RequestParser {
 public:
  /// Where in the stream a parser is: another one goes on from there, also in another process.
  struct Position {
    enum class Within : std::uint8_t { kHeader, kPayload, kSkip, kBroken };
    Within within = Within::kHeader;
    Request request;                   // whose payload is under way
    std::uint64_t payload_offset = 0;  // kPayload: of its next byte, on the device
    std::uint32_t remaining = 0;       // kPayload, kSkip: bytes of payload to come
  };

  explicit RequestParser(std::uint64_t export_bytes) : export_bytes_(export_bytes) {}

  /// `bytes` starts where the previous call's `consumed` ended. Every event but kNeedBytes and
  /// kBroken consumes something, so a loop over Next() ends.
  ParserEvent Next(std::span<const std::byte> bytes);

  /// Takes back the last `bytes` of the latest event: its request, or whole pages of its payload.
  void Unread(const ParserEvent& event, std::size_t bytes);

  const Position& position() const { return at_; }
  void set_position(const Position& position) { at_ = position; }

 private:
  using Within = Position::Within;

  ParserEvent Break();
  ParserEvent NextHeader(std::span<const std::byte> bytes);
  ParserEvent NextPayload(std::span<const std::byte> bytes);
  ParserEvent Skip(std::span<const std::byte> bytes);

  const std::uint64_t export_bytes_;
  Position at_;
};

}  // namespace farswap::nbd
