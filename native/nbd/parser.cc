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
  switch (state_) {
    case State::kHeader:
      return NextHeader(bytes);
    case State::kPayload:
      return NextPayload(bytes);
    case State::kSkip:
      return Skip(bytes);
    case State::kBroken:
      break;
  }
  return Break();
}

ParserEvent RequestParser::Break() {
  state_ = State::kBroken;
  ParserEvent event;
  event.kind = ParserEventKind::kBroken;
  return event;
}

ParserEvent RequestParser::NextHeader(std::span<const std::byte> bytes) {
  if (bytes.size() < kRequestBytes) return {};
  const std::byte* at = bytes.data();
  if (LoadBigEndian<std::uint32_t>(at) != kRequestMagic) return Break();
  request_.flags = LoadBigEndian<std::uint16_t>(at + 4);
  request_.command = static_cast<Command>(LoadBigEndian<std::uint16_t>(at + 6));
  std::memcpy(&request_.cookie, at + 8, sizeof(request_.cookie));
  request_.offset = LoadBigEndian<std::uint64_t>(at + 16);
  request_.length = LoadBigEndian<std::uint32_t>(at + 24);

  ParserEvent event;
  event.consumed = kRequestBytes;
  event.request = request_;
  const bool payload_follows = request_.command == Command::kWrite && request_.length > 0;
  event.refusal = ValidateRequest(request_, export_bytes_);
  if (event.refusal == nullptr) {
    event.kind = ParserEventKind::kRequest;
    if (payload_follows) {
      state_ = State::kPayload;
      payload_offset_ = request_.offset;
      remaining_ = request_.length;
    }
    return event;
  }
  if (!payload_follows) {
    event.kind = ParserEventKind::kRefused;
    return event;
  }
  state_ = State::kSkip;
  remaining_ = request_.length;
  refusal_ = event.refusal;
  ParserEvent skipped = Skip(bytes.subspan(kRequestBytes));
  skipped.consumed += kRequestBytes;
  return skipped;
}

ParserEvent RequestParser::NextPayload(std::span<const std::byte> bytes) {
  FARSWAP_CHECK(remaining_ > 0);
  const std::size_t pages = std::min<std::size_t>(bytes.size(), remaining_) / tier::kPageBytes;
  const std::size_t take = pages * tier::kPageBytes;
  if (take == 0) return {};
  ParserEvent event;
  event.kind = ParserEventKind::kPayload;
  event.consumed = take;
  event.request = request_;
  event.offset = payload_offset_;
  event.payload = bytes.first(take);
  payload_offset_ += take;
  remaining_ -= static_cast<std::uint32_t>(take);
  event.last = remaining_ == 0;
  if (event.last) state_ = State::kHeader;
  return event;
}

ParserEvent RequestParser::Skip(std::span<const std::byte> bytes) {
  const std::size_t take = std::min<std::size_t>(bytes.size(), remaining_);
  remaining_ -= static_cast<std::uint32_t>(take);
  ParserEvent event;
  event.consumed = take;
  event.request = request_;
  if (remaining_ == 0) {
    state_ = State::kHeader;
    event.kind = ParserEventKind::kRefused;
    event.refusal = refusal_;
  }
  return event;
}

}  // namespace farswap::nbd
