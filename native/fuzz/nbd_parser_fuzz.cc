// The request parser on any bytes: whole and in two pieces it must yield the same events, consume
// what it says and nothing more, and never let an illegal request through.
//
// Input: two bytes that say where the stream is split, then the stream.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "nbd/parser.h"
#include "tier/page.h"

namespace farswap::nbd {
namespace {

constexpr std::uint64_t kExportBytes = 1 << 20;

void Check(bool holds) {
  if (!holds) std::abort();
}

/// All that a stream means, without the boundaries of payload pieces.
struct Meaning {
  std::vector<std::uint64_t> events;  // kind, cookie, offset, length of each, payload apart
  std::vector<std::byte> payload;

  bool operator==(const Meaning&) const = default;
};

void Note(const ParserEvent& event, Meaning* meaning) {
  if (event.kind == ParserEventKind::kPayload) {
    Check(!event.payload.empty() && event.payload.size() == event.consumed);
    Check(event.offset + event.payload.size() <= kExportBytes);
    Check(event.offset % tier::kPageBytes == 0 && event.payload.size() % tier::kPageBytes == 0);
    meaning->payload.insert(meaning->payload.end(), event.payload.begin(), event.payload.end());
    return;
  }
  if (event.kind == ParserEventKind::kRequest) {
    Check(ValidateRequest(event.request, kExportBytes) == nullptr);
  }
  if (event.kind == ParserEventKind::kRefused) Check(event.refusal->error != WireError::kNone);
  meaning->events.insert(meaning->events.end(),
                         {static_cast<std::uint64_t>(event.kind), event.request.cookie,
                          event.request.offset, event.request.length});
}

/// Parses what there is; the number of bytes consumed.
std::size_t Parse(RequestParser* parser, std::span<const std::byte> bytes, Meaning* meaning) {
  std::size_t done = 0;
  for (;;) {  // ends: every event but the last consumes bytes
    const ParserEvent event = parser->Next(bytes.subspan(done));
    Check(event.consumed <= bytes.size() - done);
    done += event.consumed;
    if (event.kind == ParserEventKind::kNeedBytes) return done;
    Note(event, meaning);
    if (event.kind == ParserEventKind::kBroken) return bytes.size();
    Check(event.consumed > 0);
  }
}

void FuzzParser(std::span<const std::byte> input) {
  if (input.size() < 2) return;
  const std::size_t split_at =
      std::to_integer<std::size_t>(input[0]) << 8 | std::to_integer<std::size_t>(input[1]);
  const auto stream = input.subspan(2);
  const std::size_t split = std::min(split_at, stream.size());

  Meaning whole;
  RequestParser parser(kExportBytes);
  Parse(&parser, stream, &whole);

  Meaning pieces;
  RequestParser piecewise(kExportBytes);
  const std::size_t done = Parse(&piecewise, stream.first(split), &pieces);
  const bool broken =
      !pieces.events.empty() && pieces.events[pieces.events.size() - 4] ==
                                    static_cast<std::uint64_t>(ParserEventKind::kBroken);
  if (!broken) Parse(&piecewise, stream.subspan(done), &pieces);
  Check(whole == pieces);
}

}  // namespace
}  // namespace farswap::nbd

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  farswap::nbd::FuzzParser(std::as_bytes(std::span(data, size)));
  return 0;
}
