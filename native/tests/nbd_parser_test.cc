// The parser sees a stream in pieces of any size and yields the same requests and payloads.
#include <gtest/gtest.h>

#include "nbd/parser.h"
#include "nbd_client.h"
#include "tier/page.h"

namespace farswap::nbd {
namespace {

using tier::kPageBytes;

constexpr std::uint64_t kExportBytes = 1 << 20;

struct Seen {
  ParserEventKind kind;
  std::uint64_t cookie;
  std::string reason;
  Bytes payload;  // of the request's kPayload events together
  std::uint64_t payload_offset;
};

/// Drives a parser as a connection does, receiving the pieces one after another.
std::vector<Seen> Parse(const std::vector<std::span<const std::byte>>& pieces) {
  RequestParser parser(kExportBytes);
  std::vector<Seen> seen;
  Bytes waiting;
  for (const auto piece : pieces) {
    Append(waiting, piece);
    std::size_t done = 0;
    for (;;) {
      const ParserEvent event = parser.Next(std::span(waiting).subspan(done));
      done += event.consumed;
      if (event.kind == ParserEventKind::kNeedBytes) break;
      if (event.kind == ParserEventKind::kPayload) {
        Seen& last = seen.back();
        if (last.payload.empty()) last.payload_offset = event.offset;
        EXPECT_EQ(event.offset, last.payload_offset + last.payload.size());
        EXPECT_EQ(event.payload.size() % kPageBytes, 0u);
        Append(last.payload, event.payload);
        continue;
      }
      const std::string reason = event.refusal == nullptr ? "" : event.refusal->reason;
      seen.push_back({event.kind, __builtin_bswap64(event.request.cookie), reason, {}, 0});
      if (event.kind == ParserEventKind::kBroken) return seen;
    }
    waiting.erase(waiting.begin(), waiting.begin() + static_cast<std::ptrdiff_t>(done));
    EXPECT_LT(waiting.size(), kPageBytes) << "a piece is kept that could have been handled";
  }
  return seen;
}

Bytes MixedStream() {
  Bytes stream = RequestBytes(Command::kRead, 1, 0, 4096);
  Append(stream, RequestBytes(Command::kWrite, 2, 8192, 8192));
  Append(stream, RandomBytes(8192, 2));
  Append(stream, RequestBytes(Command::kWrite, 3, 4096, 700));
  Append(stream, RandomBytes(700, 3));
  Append(stream, RequestBytes(Command::kFlush, 4, 0, 0));
  Append(stream, RequestBytes(Command::kWrite, 5, 4096, 4096, kFlagFua));
  Append(stream, RandomBytes(4096, 5));
  Append(stream, RequestBytes(Command::kTrim, 6, 0, 0));
  Append(stream, RequestBytes(Command::kDisconnect, 7, 0, 0));
  return stream;
}

void ExpectMixedStream(const std::vector<Seen>& seen) {
  static const Bytes kFirstPayload = RandomBytes(8192, 2);
  static const Bytes kLastPayload = RandomBytes(4096, 5);
  ASSERT_EQ(seen.size(), 7u);
  for (std::size_t i = 0; i < seen.size(); ++i) {
    EXPECT_EQ(seen[i].cookie, i + 1);
    EXPECT_EQ(seen[i].kind,
              i == 2 || i == 5 ? ParserEventKind::kRefused : ParserEventKind::kRequest);
  }
  EXPECT_TRUE(Same(seen[1].payload, kFirstPayload));
  EXPECT_EQ(seen[1].payload_offset, 8192u);
  EXPECT_TRUE(seen[2].payload.empty());
  EXPECT_TRUE(Same(seen[4].payload, kLastPayload));
}

TEST(RequestParser, YieldsRequestsAndPayloadsOfOneBuffer) {
  const Bytes stream = MixedStream();
  ExpectMixedStream(Parse({stream}));
}

TEST(RequestParser, YieldsTheSameOneByteAtATime) {
  const Bytes stream = MixedStream();
  std::vector<std::span<const std::byte>> pieces;
  for (std::size_t i = 0; i < stream.size(); ++i) pieces.push_back(std::span(stream).subspan(i, 1));
  ExpectMixedStream(Parse(pieces));
}

TEST(RequestParser, YieldsTheSameWhereverTheStreamIsSplit) {
  const Bytes stream = MixedStream();
  for (std::size_t at = 0; at <= stream.size(); ++at) {
    ExpectMixedStream(Parse({std::span(stream).first(at), std::span(stream).subspan(at)}));
    if (testing::Test::HasFailure()) FAIL() << "split at " << at;
  }
}

TEST(RequestParser, BreaksAtABadMagicAndStaysBroken) {
  Bytes stream = RequestBytes(Command::kRead, 1, 0, 4096);
  stream[0] = std::byte{0};
  RequestParser parser(kExportBytes);
  EXPECT_EQ(parser.Next(std::span(stream).first(kRequestBytes - 1)).kind,
            ParserEventKind::kNeedBytes);
  EXPECT_EQ(parser.Next(stream).kind, ParserEventKind::kBroken);
  EXPECT_EQ(parser.Next(RequestBytes(Command::kRead, 1, 0, 4096)).kind, ParserEventKind::kBroken);
}

TEST(RequestParser, SkipsThePayloadOfARefusedWriteOfAnySize) {
  const std::uint32_t length = kPayloadBytesMax + kPageBytes;
  Bytes stream = RequestBytes(Command::kWrite, 1, 0, length);
  const Bytes zeros(std::size_t{1} << 20);
  RequestParser parser(std::uint64_t{1} << 40);
  ParserEvent event = parser.Next(stream);
  EXPECT_EQ(event.kind, ParserEventKind::kNeedBytes);
  EXPECT_EQ(event.consumed, kRequestBytes);
  for (std::uint32_t left = length; left > 0;) {
    ASSERT_EQ(event.kind, ParserEventKind::kNeedBytes);
    const auto bytes = std::span(zeros).first(std::min<std::size_t>(left, zeros.size()));
    event = parser.Next(bytes);
    EXPECT_EQ(event.consumed, bytes.size());
    left -= static_cast<std::uint32_t>(bytes.size());
  }
  ASSERT_EQ(event.kind, ParserEventKind::kRefused);
  EXPECT_EQ(event.refusal->error, WireError::kInvalid);
}

struct Judgement {
  const char* name;
  Request request;
  WireError error;
  const char* reason;  // a part of it
};

class Validation : public testing::TestWithParam<Judgement> {};

TEST_P(Validation, HasOneReasonPerIllegalInput) {
  const RequestError* refusal = ValidateRequest(GetParam().request, kExportBytes);
  if (GetParam().error == WireError::kNone) {
    EXPECT_EQ(refusal, nullptr);
    return;
  }
  ASSERT_NE(refusal, nullptr);
  EXPECT_EQ(refusal->error, GetParam().error);
  EXPECT_NE(std::string(refusal->reason).find(GetParam().reason), std::string::npos)
      << refusal->reason;
}

constexpr std::uint32_t kPage = kPageBytes;
constexpr auto kNone = WireError::kNone;
constexpr auto kInvalid = WireError::kInvalid;
constexpr auto kNoSpace = WireError::kNoSpace;

INSTANTIATE_TEST_SUITE_P(
    Requests, Validation,
    testing::Values(
        Judgement{"LastPage", {0, Command::kRead, 0, kExportBytes - kPage, kPage}, kNone, ""},
        Judgement{"FuaOnRead", {kFlagFua, Command::kRead, 0, 0, kPage}, kNone, ""},
        Judgement{"ZeroFlags",
                  {kFlagFua | kFlagNoHole | kFlagFastZero, Command::kWriteZeroes, 0, 0, kPage},
                  kNone,
                  ""},
        Judgement{"Cache", {0, Command::kCache, 0, 0, kPage}, kNone, ""},
        Judgement{"WholeExportTrim", {0, Command::kTrim, 0, 0, kExportBytes}, kNone, ""},
        Judgement{"DisconnectWithAnything", {0xFFFF, Command::kDisconnect, 0, ~0ull, 9}, kNone, ""},
        Judgement{"Command7", {0, Command{7}, 0, 0, kPage}, kInvalid, "unknown command"},
        Judgement{"Command65535", {0, Command{65535}, 0, 0, 0}, kInvalid, "unknown command"},
        Judgement{"DontFragment", {1 << 2, Command::kRead, 0, 0, kPage}, kInvalid, "unknown"},
        Judgement{"HighFlag", {1 << 15, Command::kWrite, 0, 0, kPage}, kInvalid, "unknown"},
        Judgement{"NoHoleWrite", {kFlagNoHole, Command::kWrite, 0, 0, kPage}, kInvalid, "ZEROES"},
        Judgement{"FastTrim", {kFlagFastZero, Command::kTrim, 0, 0, kPage}, kInvalid, "ZEROES"},
        Judgement{"FlushOffset", {0, Command::kFlush, 0, 1, 0}, kInvalid, "FLUSH"},
        Judgement{"FlushLength", {0, Command::kFlush, 0, 0, 1}, kInvalid, "FLUSH"},
        Judgement{"EmptyRead", {0, Command::kRead, 0, 0, 0}, kInvalid, "zero"},
        Judgement{"EmptyWrite", {0, Command::kWrite, 0, 0, 0}, kInvalid, "zero"},
        Judgement{"OddOffset", {0, Command::kRead, 0, 512, kPage}, kInvalid, "multiple"},
        Judgement{"OddLength", {0, Command::kWrite, 0, 0, kPage + 1}, kInvalid, "multiple"},
        Judgement{"OddTrim", {0, Command::kTrim, 0, 0, kPage / 2}, kInvalid, "multiple"},
        Judgement{"OddZeroes", {0, Command::kWriteZeroes, 0, 1, kPage}, kInvalid, "multiple"},
        Judgement{
            "LongRead", {0, Command::kRead, 0, 0, kPayloadBytesMax + kPage}, kInvalid, "2 MiB"},
        Judgement{"ReadBeyond",
                  {0, Command::kRead, 0, kExportBytes - kPage, 2 * kPage},
                  kInvalid,
                  "exceeds"},
        Judgement{"ReadWraps", {0, Command::kRead, 0, 0 - kPageBytes, kPage}, kInvalid, "exceeds"},
        Judgement{"TrimBeyond", {0, Command::kTrim, 0, kExportBytes, kPage}, kInvalid, "exceeds"},
        Judgement{"WriteBeyond", {0, Command::kWrite, 0, kExportBytes, kPage}, kNoSpace, "exceeds"},
        Judgement{
            "ZeroBeyond", {0, Command::kWriteZeroes, 0, kPage, kExportBytes}, kNoSpace, "exceeds"}),
    [](const auto& judged) { return std::string(judged.param.name); });

}  // namespace
}  // namespace farswap::nbd
