// What a client sees of one connection whose pages are all local.
#include <gtest/gtest.h>

#include "nbd/connection.h"
#include "nbd_server.h"

namespace farswap::nbd {
namespace {

using tier::IoStatus;
using tier::kPageBytes;

constexpr std::uint32_t kPage = kPageBytes;
constexpr std::uint32_t kOk = 0;
constexpr auto kEio = static_cast<std::uint32_t>(WireError::kIo);
constexpr auto kEinval = static_cast<std::uint32_t>(WireError::kInvalid);
constexpr auto kEnospc = static_cast<std::uint32_t>(WireError::kNoSpace);

TEST(Connection, ReadsBackWhatWasWritten) {
  Server server(64);
  const Bytes bytes = RandomBytes(8 * kPage, 1);
  EXPECT_EQ(server.client.Write(3 * kPage, bytes), kOk);
  EXPECT_EQ(server.client.Read(3 * kPage, 8 * kPage), bytes);
  EXPECT_EQ(server.client.Read(0, kPage), Bytes(kPage));
}

TEST(Connection, AnswersABatchOfRequestsWithAllTheirReplies) {
  Server server(512);
  Bytes batch;
  std::map<std::uint64_t, std::size_t> lengths;
  for (std::uint64_t i = 0; i < 300; ++i) {
    FakeTier::Page page;
    page.fill(static_cast<std::byte>(i));
    server.tier.Poke(static_cast<tier::SlotIndex>(i), page);
    Append(batch, RequestBytes(Command::kRead, i, i * kPage, kPage));
    lengths[i] = kPage;
  }
  std::thread sender([&] { server.client.Send(batch); });  // the replies exceed the socket buffers
  const auto data = server.client.ReceiveReads(lengths);
  sender.join();
  for (std::uint64_t i = 0; i < 300; ++i) EXPECT_EQ(data.at(i), Bytes(kPage, std::byte(i)));
}

TEST(Connection, StoresAnyRangeAtAnyAlignment) {
  Server server(64);
  Bytes model(server.export_bytes);
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    const std::uint64_t offset = random() % (server.export_bytes - 1);
    const auto length = static_cast<std::uint32_t>(
        1 + random() % std::min(5ul * kPage, server.export_bytes - offset));
    const auto at = model.begin() + static_cast<std::ptrdiff_t>(offset);
    if (i % 3 == 0) {
      ASSERT_EQ(server.client.Do(Command::kWriteZeroes, offset, length), kOk);
      std::fill_n(at, length, std::byte{0});
    } else {
      const Bytes bytes = RandomBytes(length, static_cast<unsigned>(i));
      ASSERT_EQ(server.client.Write(offset, bytes), kOk);
      std::copy(bytes.begin(), bytes.end(), at);
    }
    const std::uint64_t from = random() % (server.export_bytes - 1);
    const auto count = static_cast<std::uint32_t>(
        1 + random() % std::min(9ul * kPage, server.export_bytes - from));
    const auto expected = std::span(model).subspan(from, count);
    ASSERT_TRUE(std::ranges::equal(server.client.Read(from, count), expected));
  }
}

TEST(Connection, StoresThePartOfAPageAgainWhenAnotherWriterWasFaster) {
  Server server(4);
  server.tier.RaceStores(3);
  EXPECT_EQ(server.client.Write(100, RandomBytes(50, 1)), kOk);
  const FakeTier::Page page = server.tier.Peek(0);
  EXPECT_EQ(Bytes(page.begin() + 100, page.begin() + 150), RandomBytes(50, 1));
  EXPECT_EQ(page.back(), std::byte{0xEE}) << "the other writer's byte is gone";
}

TEST(Connection, TrimForgetsWholePagesOnly) {
  Server server(8);
  const Bytes bytes = RandomBytes(8 * kPage, 1);
  server.client.Write(0, bytes);
  EXPECT_EQ(server.client.Do(Command::kTrim, 100, 3 * kPage), kOk);
  ASSERT_EQ(server.tier.Invalidations().size(), 1u);
  EXPECT_EQ(server.tier.Invalidations()[0], std::pair(tier::SlotIndex{1}, std::uint64_t{2}));
  EXPECT_EQ(server.client.Do(Command::kTrim, 100, kPage), kOk);
  EXPECT_EQ(server.client.Do(Command::kTrim, 4 * kPage + 1, 1), kOk);
  EXPECT_EQ(server.tier.Invalidations().size(), 1u);
  EXPECT_EQ(server.client.Read(0, kPage), Bytes(bytes.begin(), bytes.begin() + kPage));
}

TEST(Connection, ZeroesTheWholeExportInOneRequest) {
  Server server(8);
  server.client.Write(0, RandomBytes(8 * kPage, 1));
  EXPECT_EQ(server.client.Do(Command::kWriteZeroes, 0, 8 * kPage, kFlagNoHole | kFlagFastZero),
            kOk);
  EXPECT_EQ(server.client.Read(0, 8 * kPage), Bytes(8 * kPage));
}

TEST(Connection, TakesFlushCacheAndFua) {
  Server server(8);
  EXPECT_EQ(server.client.Do(Command::kFlush, 0, 0), kOk);
  EXPECT_EQ(server.client.Do(Command::kCache, 0, kPage), kOk);
  EXPECT_EQ(server.client.Write(0, RandomBytes(kPage, 1), kFlagFua), kOk);
  EXPECT_EQ(server.errors(), 0u);
}

TEST(Connection, RefusesIllegalRequestsAndGoesOn) {
  Server server(8);
  EXPECT_EQ(server.client.Do(Command::kRead, server.export_bytes, kPage), kEinval);
  EXPECT_EQ(server.client.Do(Command::kTrim, server.export_bytes, kPage), kEinval);
  EXPECT_EQ(server.client.Write(server.export_bytes - 1, RandomBytes(kPage, 1)), kEnospc);
  EXPECT_EQ(server.client.Do(Command{99}, 0, kPage), kEinval);
  EXPECT_EQ(server.client.Do(Command::kRead, 0, kPayloadBytesMax + 1), kEinval);
  EXPECT_EQ(server.last_refusal(), "payload over the announced maximum of 32 MiB");
  EXPECT_EQ(server.client.Write(0, Bytes(kPayloadBytesMax + 1)), kEinval);
  EXPECT_EQ(server.errors(), 6u);
  EXPECT_EQ(server.client.Write(0, RandomBytes(kPage, 2)), kOk);
  EXPECT_EQ(server.client.Read(0, kPage), RandomBytes(kPage, 2));
}

TEST(Connection, ClosesAtABadMagicAfterAnsweringWhatCameBefore) {
  Server server(8);
  Bytes batch = RequestBytes(Command::kFlush, 1, 0, 0);
  Append(batch, RandomBytes(kRequestBytes, 1));
  server.client.Send(batch);
  EXPECT_EQ(server.client.ReceiveReply().cookie, 1u);
  EXPECT_TRUE(server.client.AtEnd());
}

TEST(Connection, EndsAtDisconnectWithoutAReply) {
  Server server(8);
  Bytes batch = RequestBytes(Command::kFlush, 1, 0, 0);
  Append(batch, RequestBytes(Command::kDisconnect, 2, 0, 0));
  Append(batch, RequestBytes(Command::kFlush, 3, 0, 0));
  server.client.Send(batch);
  EXPECT_EQ(server.client.ReceiveReply().cookie, 1u);
  EXPECT_TRUE(server.client.AtEnd());
}

TEST(Connection, ServesWhatCameBehindTheHandshake) {
  Bytes initial = RequestBytes(Command::kWrite, 1, 0, kPage);
  const Bytes page = RandomBytes(kPage, 1);
  Append(initial, std::span(page).first(1000));
  Server server(8, initial);
  server.client.Send(std::span(page).subspan(1000));
  EXPECT_EQ(server.client.ReceiveReply().error, kOk);
  EXPECT_EQ(server.client.Read(0, kPage), page);
}

TEST(Connection, DrainsThePayloadAfterAFailedStoreAndTellsWhy) {
  Server server(1024);
  server.tier.FailStores(5, IoStatus::kNoSpace);
  server.tier.FailStores(900, IoStatus::kIoError);
  EXPECT_EQ(server.client.Write(0, RandomBytes(800 * kPage, 1)), kEnospc);
  EXPECT_EQ(server.client.Write(899 * kPage, RandomBytes(2 * kPage, 2)), kEio);
  EXPECT_EQ(server.client.Write(5 * kPage + 1, RandomBytes(10, 3)), kEnospc);
  EXPECT_EQ(server.client.Write(0, RandomBytes(kPage, 4)), kOk);
  EXPECT_EQ(server.errors(), 3u);
}

TEST(Connection, FailedWriteLeavesNoOlderPageBehindTheOneThatFailed) {
  Server server(1024);
  server.client.Write(0, RandomBytes(900 * kPage, 1));
  server.tier.FailStores(5, IoStatus::kNoSpace);
  const Bytes newer = RandomBytes(800 * kPage, 2);
  EXPECT_EQ(server.client.Write(0, newer), kEnospc);
  EXPECT_EQ(server.client.Read(0, 5 * kPage), Bytes(newer.begin(), newer.begin() + 5 * kPage));
  EXPECT_EQ(server.client.Read(6 * kPage, 794 * kPage), Bytes(794 * kPage));
  EXPECT_NE(server.client.Read(800 * kPage, kPage), Bytes(kPage));
}

TEST(Connection, ReadsOfDamagedPagesFailAlone) {
  Server server(1024);
  server.tier.FailLoads(2);
  server.client.Write(kPage, RandomBytes(kPage, 1));
  EXPECT_EQ(server.client.Do(Command::kRead, 0, 4 * kPage), kEio);
  EXPECT_EQ(server.client.Do(Command::kRead, 0, 1000 * kPage), kEio);
  EXPECT_EQ(server.client.Read(kPage, kPage), RandomBytes(kPage, 1));
}

TEST(Connection, MovesTheLargestRequestsWhole) {
  Server server(kPayloadBytesMax / kPage + 2);
  const Bytes bytes = RandomBytes(kPayloadBytesMax, 1);
  EXPECT_EQ(server.client.Write(0, bytes), kOk);
  EXPECT_TRUE(Same(server.client.Read(0, kPayloadBytesMax), bytes));
  EXPECT_EQ(server.client.Write(17, bytes), kOk);
  EXPECT_TRUE(Same(server.client.Read(17, kPayloadBytesMax), bytes));
}

TEST(Connection, ReadsAsLargeAsTheReplyBuffer) {
  constexpr auto kLongest = static_cast<std::uint32_t>(Connection::kReplyBytes - kSimpleReplyBytes);
  Server server(512);
  const Bytes bytes = RandomBytes(512 * kPage, 1);
  server.client.Write(0, bytes);
  for (const std::uint32_t length : {kLongest - 1, kLongest, kLongest + 1}) {
    Bytes batch = RequestBytes(Command::kRead, 1, 3, length);
    Append(batch, RequestBytes(Command::kRead, 2, 5, length));
    server.client.Send(batch);
    const auto data = server.client.ReceiveReads({{1, length}, {2, length}});
    EXPECT_EQ(data.at(1), Bytes(bytes.begin() + 3, bytes.begin() + 3 + length));
    EXPECT_EQ(data.at(2), Bytes(bytes.begin() + 5, bytes.begin() + 5 + length));
  }
}

TEST(Connection, RefusesMoreInitialBytesThanItCanHold) {
  FakeTier tier(8);
  Client client;
  const Bytes initial(Connection::kReceiveBytes + 1);
  EXPECT_FALSE(Connection::Create(&tier, 8 * kPage, client.server_end(), initial).ok());
  EXPECT_TRUE(client.AtEnd()) << "the socket is owned also when it fails";
}

}  // namespace
}  // namespace farswap::nbd
