// The request parser on any bytes: whole and in two pieces it must yield the same steps, consume
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
  std::vector<std::uint64_t> steps;  // kind, cookie, offset, length of each, payload apart
  std::vector<std::byte> payload;

  bool operator==(const Meaning&) const = default;
};

void Note(const Step& step, Meaning* meaning) {
  if (step.kind == StepKind::kPayload) {
    Check(!step.payload.empty() && step.payload.size() == step.consumed);
    Check(step.offset + step.payload.size() <= kExportBytes);
    Check(step.offset % tier::kPageBytes == 0 && step.payload.size() % tier::kPageBytes == 0);
    meaning->payload.insert(meaning->payload.end(), step.payload.begin(), step.payload.end());
    return;
  }
  if (step.kind == StepKind::kRequest) {
    Check(ValidateRequest(step.request, kExportBytes) == nullptr);
  }
  if (step.kind == StepKind::kRefused) Check(step.refusal->error != WireError::kNone);
  meaning->steps.insert(meaning->steps.end(),
                        {static_cast<std::uint64_t>(step.kind), step.request.cookie,
                         step.request.offset, step.request.length});
}

/// Parses what there is; the number of bytes consumed.
std::size_t Parse(RequestParser* parser, std::span<const std::byte> bytes, Meaning* meaning) {
  std::size_t done = 0;
  for (;;) {  // ends: every step but the last consumes bytes
    const Step step = parser->Next(bytes.subspan(done));
    Check(step.consumed <= bytes.size() - done);
    done += step.consumed;
    if (step.kind == StepKind::kNeedBytes) return done;
    Note(step, meaning);
    if (step.kind == StepKind::kBroken) return bytes.size();
    Check(step.consumed > 0);
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
  const bool broken = !pieces.steps.empty() && pieces.steps[pieces.steps.size() - 4] ==
                                                   static_cast<std::uint64_t>(StepKind::kBroken);
  if (!broken) Parse(&piecewise, stream.subspan(done), &pieces);
  Check(whole == pieces);
}

}  // namespace
}  // namespace farswap::nbd

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  farswap::nbd::FuzzParser(std::as_bytes(std::span(data, size)));
  return 0;
}
