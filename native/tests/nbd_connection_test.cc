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

TEST(Connection, ServesWholePagesAtPageOffsetsAlone) {
  Server server(8);
  const Bytes bytes = RandomBytes(8 * kPage, 1);
  server.client.Write(0, bytes);
  for (const auto& [offset, length] :
       {std::pair{1u, kPage}, {512u, kPage}, {0u, kPage - 1}, {0u, 512u}, {100u, 7 * kPage}}) {
    for (const Command command :
         {Command::kRead, Command::kTrim, Command::kWriteZeroes, Command::kCache}) {
      EXPECT_EQ(server.client.Do(command, offset, length), kEinval);
    }
    EXPECT_EQ(server.client.Write(offset, RandomBytes(length, 2)), kEinval);
  }
  EXPECT_EQ(server.last_refusal(), "offset or length is not a multiple of 4096 bytes");
  EXPECT_EQ(server.client.Read(0, 8 * kPage), bytes);
}

TEST(Connection, TrimForgetsPages) {
  Server server(8);
  Bytes bytes = RandomBytes(8 * kPage, 1);
  server.client.Write(0, bytes);
  EXPECT_EQ(server.client.Do(Command::kTrim, kPage, 2 * kPage), kOk);
  std::fill_n(bytes.begin() + kPage, 2 * kPage, std::byte{0});
  EXPECT_EQ(server.client.Read(0, 8 * kPage), bytes);
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
  EXPECT_EQ(server.client.Write(server.export_bytes, RandomBytes(kPage, 1)), kEnospc);
  EXPECT_EQ(server.client.Do(Command{99}, 0, kPage), kEinval);
  EXPECT_EQ(server.client.Do(Command::kRead, 0, kPayloadBytesMax + kPage), kEinval);
  EXPECT_EQ(server.last_refusal(), "payload exceeds the announced maximum of 2 MiB");
  EXPECT_EQ(server.client.Write(0, Bytes(kPayloadBytesMax + kPage)), kEinval);
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

TEST(Connection, DrainsThePayloadAfterAFailedStoreAndReportsWhy) {
  Server server(1024);
  server.tier.FailStores(5, IoStatus::kNoSpace);
  server.tier.FailStores(900, IoStatus::kIoError);
  EXPECT_EQ(server.client.Write(0, RandomBytes(400 * kPage, 1)), kEnospc);
  EXPECT_EQ(server.client.Write(899 * kPage, RandomBytes(2 * kPage, 2)), kEio);
  EXPECT_EQ(server.client.Write(5 * kPage, RandomBytes(kPage, 3)), kEnospc);
  EXPECT_EQ(server.client.Write(0, RandomBytes(kPage, 4)), kOk);
  EXPECT_EQ(server.errors(), 3u);
}

TEST(Connection, FailedWriteLeavesNoOlderPageBehindTheOneThatFailed) {
  Server server(1024);
  server.client.Write(0, RandomBytes(500 * kPage, 1));
  server.tier.FailStores(5, IoStatus::kNoSpace);
  const Bytes newer = RandomBytes(400 * kPage, 2);
  EXPECT_EQ(server.client.Write(0, newer), kEnospc);
  EXPECT_EQ(server.client.Read(0, 5 * kPage), Bytes(newer.begin(), newer.begin() + 5 * kPage));
  EXPECT_EQ(server.client.Read(6 * kPage, 394 * kPage), Bytes(394 * kPage));
  EXPECT_NE(server.client.Read(400 * kPage, kPage), Bytes(kPage));
}

TEST(Connection, ReadsOfDamagedPagesFailAlone) {
  Server server(1024);
  server.tier.FailLoads(2);
  server.client.Write(kPage, RandomBytes(kPage, 1));
  EXPECT_EQ(server.client.Do(Command::kRead, 0, 4 * kPage), kEio);
  EXPECT_EQ(server.client.Do(Command::kRead, 0, 500 * kPage), kEio);
  EXPECT_EQ(server.client.Read(kPage, kPage), RandomBytes(kPage, 1));
}

TEST(Connection, MovesTheLargestRequestsWhole) {
  Server server(kPayloadBytesMax / kPage + 2);
  const Bytes bytes = RandomBytes(kPayloadBytesMax, 1);
  EXPECT_EQ(server.client.Write(2 * kPage, bytes), kOk);
  Bytes batch = RequestBytes(Command::kRead, 1, 2 * kPage, kPayloadBytesMax);
  Append(batch, RequestBytes(Command::kRead, 2, 2 * kPage, kPayloadBytesMax));
  server.client.Send(batch);
  const auto data = server.client.ReceiveReads({{1, kPayloadBytesMax}, {2, kPayloadBytesMax}});
  EXPECT_TRUE(Same(data.at(1), bytes));
  EXPECT_TRUE(Same(data.at(2), bytes));
}

TEST(Connection, RefusesMoreInitialBytesThanItCanHold) {
  FakeTier tier(8);
  Client client;
  const Bytes initial(ConnectionState::kReceiveBytes + 1);
  EXPECT_FALSE(Connection::Create(&tier, 8 * kPage, client.server_end(), initial).ok());
  EXPECT_TRUE(client.AtEnd()) << "the socket is owned also when it fails";
}

}  // namespace
}  // namespace farswap::nbd
