#include "nbd/parser.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "tier/page.h"

namespace farswap::nbd {
namespace {

constexpr RequestError kUnknownCommand{WireError::kInvalid, "unknown command"};
constexpr RequestError kUnknownFlag{WireError::kInvalid, "unknown command flag"};
constexpr RequestError kFlagOfWriteZeroes{WireError::kInvalid,
                                          "NO_HOLE and FAST_ZERO belong to WRITE_ZEROES alone"};
constexpr RequestError kFlushWithRange{WireError::kInvalid, "FLUSH takes no offset and no length"};
constexpr RequestError kNoLength{WireError::kInvalid, "length is zero"};
constexpr RequestError kUnaligned{WireError::kInvalid,
                                  "offset or length is not a multiple of 4096 bytes"};
constexpr RequestError kTooLong{WireError::kInvalid,
                                "payload exceeds the announced maximum of 2 MiB"};
constexpr RequestError kBeyondEnd{WireError::kInvalid, "range exceeds the end of the export"};
constexpr RequestError kNoRoomBeyondEnd{WireError::kNoSpace,
                                        "written range exceeds the end of the export"};

bool InRange(const Request& request, std::uint64_t export_bytes) {
  return request.offset <= export_bytes && request.length <= export_bytes - request.offset;
}

}  // namespace

const RequestError* ValidateRequest(const Request& request, std::uint64_t export_bytes) {
  const Command command = request.command;
  if (command > Command::kWriteZeroes) return &kUnknownCommand;
  if (command == Command::kDisconnect) return nullptr;  // has no reply to carry an error
  if (request.flags & ~(kFlagFua | kFlagNoHole | kFlagFastZero)) return &kUnknownFlag;
  if (command != Command::kWriteZeroes && request.flags & (kFlagNoHole | kFlagFastZero)) {
    return &kFlagOfWriteZeroes;
  }
  if (command == Command::kFlush) {
    return request.offset == 0 && request.length == 0 ? nullptr : &kFlushWithRange;
  }
  // The protocol leaves zero lengths unspecified; nbdkit refuses them too.
  if (request.length == 0) return &kNoLength;
  if ((request.offset | request.length) % tier::kPageBytes != 0) return &kUnaligned;
  const bool has_payload = command == Command::kRead || command == Command::kWrite;
  if (has_payload && request.length > kPayloadBytesMax) return &kTooLong;
  if (!InRange(request, export_bytes)) {
    const bool writes = command == Command::kWrite || command == Command::kWriteZeroes;
    return writes ? &kNoRoomBeyondEnd : &kBeyondEnd;
  }
  return nullptr;
}

ParserEvent RequestParser::Next(std::span<const std::byte> bytes) {
  switch (at_.within) {
    case Within::kHeader:
      return NextHeader(bytes);
    case Within::kPayload:
      return NextPayload(bytes);
    case Within::kSkip:
      return Skip(bytes);
    case Within::kBroken:
      break;
  }
  return Break();
}

void RequestParser::Unread(const ParserEvent& event, std::size_t bytes) {
  if (event.kind == ParserEventKind::kRequest) {
    at_.within = Within::kHeader;
    return;
  }
  FARSWAP_CHECK(event.kind == ParserEventKind::kPayload && bytes <= event.payload.size());
  at_.within = Within::kPayload;
  at_.payload_offset = event.offset + event.payload.size() - bytes;
  at_.remaining += static_cast<std::uint32_t>(bytes);
}

ParserEvent RequestParser::Break() {
  at_.within = Within::kBroken;
  ParserEvent event;
  event.kind = ParserEventKind::kBroken;
  return event;
}

ParserEvent RequestParser::NextHeader(std::span<const std::byte> bytes) {
  if (bytes.size() < kRequestBytes) return {};
  const std::byte* at = bytes.data();
  if (LoadBigEndian<std::uint32_t>(at) != kRequestMagic) return Break();
  at_.request.flags = LoadBigEndian<std::uint16_t>(at + 4);
  at_.request.command = static_cast<Command>(LoadBigEndian<std::uint16_t>(at + 6));
  std::memcpy(&at_.request.cookie, at + 8, sizeof(at_.request.cookie));
  at_.request.offset = LoadBigEndian<std::uint64_t>(at + 16);
  at_.request.length = LoadBigEndian<std::uint32_t>(at + 24);

  ParserEvent event;
  event.consumed = kRequestBytes;
  event.request = at_.request;
  const bool payload_follows = at_.request.command == Command::kWrite && at_.request.length > 0;
  event.refusal = ValidateRequest(at_.request, export_bytes_);
  if (event.refusal == nullptr) {
    event.kind = ParserEventKind::kRequest;
    if (payload_follows) {
      at_.within = Within::kPayload;
      at_.payload_offset = at_.request.offset;
      at_.remaining = at_.request.length;
    }
    return event;
  }
  if (!payload_follows) {
    event.kind = ParserEventKind::kRefused;
    return event;
  }
  at_.within = Within::kSkip;
  at_.remaining = at_.request.length;
  ParserEvent skipped = Skip(bytes.subspan(kRequestBytes));
  skipped.consumed += kRequestBytes;
  return skipped;
}

ParserEvent RequestParser::NextPayload(std::span<const std::byte> bytes) {
  FARSWAP_CHECK(at_.remaining > 0);
  const std::size_t pages = std::min<std::size_t>(bytes.size(), at_.remaining) / tier::kPageBytes;
  const std::size_t take = pages * tier::kPageBytes;
  if (take == 0) return {};
  ParserEvent event;
  event.kind = ParserEventKind::kPayload;
  event.consumed = take;
  event.request = at_.request;
  event.offset = at_.payload_offset;
  event.payload = bytes.first(take);
  at_.payload_offset += take;
  at_.remaining -= static_cast<std::uint32_t>(take);
  event.last = at_.remaining == 0;
  if (event.last) at_.within = Within::kHeader;
  return event;
}

ParserEvent RequestParser::Skip(std::span<const std::byte> bytes) {
  const std::size_t take = std::min<std::size_t>(bytes.size(), at_.remaining);
  at_.remaining -= static_cast<std::uint32_t>(take);
  ParserEvent event;
  event.consumed = take;
  event.request = at_.request;
  if (at_.remaining == 0) {
    at_.within = Within::kHeader;
    event.kind = ParserEventKind::kRefused;
    event.refusal = ValidateRequest(at_.request, export_bytes_);
  }
  return event;
}

}  // namespace farswap::nbd
