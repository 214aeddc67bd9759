// Reads whose pages are on memory servers, and the sharing of the socket with their completions.
#include <gtest/gtest.h>

#include "nbd_server.h"

namespace farswap::nbd {
namespace {

using tier::kPageBytes;

constexpr std::uint32_t kPage = kPageBytes;
constexpr auto kEio = static_cast<std::uint32_t>(WireError::kIo);

Bytes Part(const Bytes& bytes, std::size_t from, std::size_t count) {
  const auto at = bytes.begin() + static_cast<std::ptrdiff_t>(from);
  return {at, at + static_cast<std::ptrdiff_t>(count)};
}

TEST(ParkedRead, DoesNotHoldUpTheRequestsBehindIt) {
  Server server(64);
  const Bytes bytes = RandomBytes(64 * kPage, 1);
  server.client.Write(0, bytes);
  server.tier.SetRemote(3, 1);
  server.tier.HoldFetches(true);
  server.client.Send(RequestBytes(Command::kRead, 77, 3 * kPage, kPage));
  server.tier.AwaitHeldFetches(1);
  EXPECT_EQ(server.client.Read(5 * kPage, kPage), Part(bytes, 5 * kPage, kPage));
  EXPECT_EQ(server.client.Write(9 * kPage, RandomBytes(kPage, 2)), 0u);
  server.tier.HoldFetches(false);
  EXPECT_EQ(server.client.ReceiveReads({{77, kPage}}).at(77), Part(bytes, 3 * kPage, kPage));
}

TEST(ParkedRead, MixesLocalEmptyAndRemotePages) {
  Server server(2 * tier::kShardSlots);
  constexpr std::uint64_t kBase = (tier::kShardSlots - 20) * kPageBytes;  // over a shard's end
  Bytes bytes = RandomBytes(40 * kPage, 1);
  std::fill_n(bytes.begin() + 7 * kPage, kPage, std::byte{0});
  server.client.Write(kBase, bytes);
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    server.tier.FetchInline(round % 3 == 0);
    for (tier::SlotIndex i = 0; i < 40; ++i) {
      if (random() % 3 == 0) server.tier.SetRemote(tier::kShardSlots - 20 + i, 1);
    }
    const std::size_t from = random() % 40 * kPage;
    const auto length =
        static_cast<std::uint32_t>(kPage + random() % (40 * kPage - from)) / kPage * kPage;
    ASSERT_EQ(server.client.Read(kBase + from, length), Part(bytes, from, length));
    const std::size_t page = random() % 40;  // brings the pages back
    server.client.Write(kBase + page * kPage, Part(bytes, page * kPage, kPage));
  }
}

TEST(ParkedRead, AnswersManyMoreThanThePoolsHold) {
  Server server(4096);
  const Bytes bytes = RandomBytes(4096 * kPage, 1);
  for (std::size_t i = 0; i < 4096; i += 512) {
    server.client.Write(i * kPage, Part(bytes, i * kPage, 512 * kPage));
  }
  server.tier.SetRemote(0, 4096);
  server.tier.HoldFetches(true);
  Bytes batch;
  std::map<std::uint64_t, std::size_t> lengths;
  std::mt19937 random(3);
  std::vector<std::size_t> from(1000);
  for (std::uint64_t i = 0; i < from.size(); ++i) {
    lengths[i] = (1 + random() % 16) * kPage;
    from[i] = random() % 4000 * kPage;
    Append(batch, RequestBytes(Command::kRead, i, from[i], static_cast<std::uint32_t>(lengths[i])));
  }
  std::thread sender([&] { server.client.Send(batch); });
  server.tier.AwaitHeldFetches(8);
  server.tier.HoldFetches(false);
  const auto data = server.client.ReceiveReads(lengths);
  sender.join();
  for (std::uint64_t i = 0; i < from.size(); ++i) {
    ASSERT_EQ(data.at(i), Part(bytes, from[i], lengths[i]));
  }
}

TEST(ParkedRead, StopsParsingWhenThePoolIsEmpty) {
  Server server(1024);
  server.tier.SetRemote(0, 1024);
  server.tier.HoldFetches(true);
  Bytes batch;
  for (std::uint64_t i = 0; i <= ConnectionState::kParkedReads; ++i) {
    Append(batch, RequestBytes(Command::kRead, i, i * kPage, kPage));
  }
  Append(batch, RequestBytes(Command::kFlush, 1000, 0, 0));
  server.client.Send(batch);
  server.tier.AwaitHeldFetches(ConnectionState::kParkedReads);
  EXPECT_FALSE(server.client.AnythingToReceive(20)) << "the flush is behind a read that must wait";
  server.tier.HoldFetches(false);
  bool flushed = false;
  for (std::uint64_t i = 0; i <= ConnectionState::kParkedReads + 1; ++i) {
    const Client::Reply reply = server.client.ReceiveReply();
    EXPECT_EQ(reply.error, 0u);
    if (reply.cookie == 1000) {
      flushed = true;
    } else {
      EXPECT_EQ(server.client.Receive(kPage), Bytes(kPage));
    }
  }
  EXPECT_TRUE(flushed);
}

TEST(ParkedRead, CompletionsNeverWaitForAClientThatDoesNotRead) {
  Server server(1024);
  Server other(64);
  const Bytes bytes = RandomBytes(512 * kPage, 1);
  server.client.Write(0, bytes);
  server.tier.SetRemote(0, 512);
  server.tier.HoldFetches(true);
  std::map<std::uint64_t, std::size_t> lengths;
  Bytes batch;
  for (std::uint64_t i = 0; i < 16; ++i) {  // 1 MiB of replies, more than a socket buffer holds
    Append(batch, RequestBytes(Command::kRead, i, i * 16 * kPage, 16 * kPage));
    lengths[i] = 16 * kPage;
  }
  server.client.Send(batch);
  server.tier.AwaitHeldFetches(16);
  server.tier.HoldFetches(false);
  // The completion thread finishes all of them though no client receives: it then serves this one.
  while (server.tier.HeldFetches() > 0) std::this_thread::yield();
  const auto data = server.client.ReceiveReads(lengths);
  for (std::uint64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(data.at(i), Part(bytes, i * 16 * kPage, 16 * kPage));
  }
}

TEST(ParkedRead, ThatFailsIsAnErrorOfThatRequestAlone) {
  Server server(512);
  server.tier.SetRemote(0, 512);
  server.tier.FailLoads(7);
  EXPECT_EQ(server.client.Do(Command::kRead, 0, 16 * kPage), kEio);
  EXPECT_EQ(server.client.Do(Command::kRead, 0, 512 * kPage), kEio);
  EXPECT_EQ(server.client.Read(8 * kPage, 16 * kPage), Bytes(16 * kPage));
  EXPECT_EQ(server.errors(), 2u);
}

TEST(ParkedRead, LocalPageThatIsDamagedBehindARemoteOneFailsTheRead) {
  Server server(64);
  server.tier.SetRemote(0, 2);
  server.tier.FailLoads(3);
  EXPECT_EQ(server.client.Do(Command::kRead, 0, 8 * kPage), kEio);
  EXPECT_EQ(server.client.Read(0, 2 * kPage), Bytes(2 * kPage));
}

// The first 100 pages of the read are here, and the next shard begins in it.
TEST(ParkedRead, OfTheLargestSizeHoldsUpNoOtherRequestThanParkedOnes) {
  constexpr std::uint32_t kPages = kPayloadBytesMax / kPage;
  constexpr tier::SlotIndex kFirst = tier::kShardSlots - 256;
  Server server(2 * tier::kShardSlots);
  const Bytes bytes = RandomBytes(kPayloadBytesMax, 1);
  server.client.Write(std::uint64_t{kFirst} * kPage, bytes);
  server.tier.SetRemote(kFirst + 100, kPages - 150);
  server.tier.HoldFetches(true);
  Bytes batch = RequestBytes(Command::kFlush, 1, 0, 0);
  Append(batch, RequestBytes(Command::kRead, 2, std::uint64_t{kFirst} * kPage, kPayloadBytesMax));
  Append(batch, RequestBytes(Command::kFlush, 3, 0, 0));
  Append(batch, RequestBytes(Command::kRead, 4, std::uint64_t{kFirst + 99} * kPage, 2 * kPage));
  Append(batch, RequestBytes(Command::kFlush, 5, 0, 0));
  server.client.Send(batch);
  EXPECT_EQ(server.client.ReceiveReply().cookie, 1u);
  EXPECT_EQ(server.client.ReceiveReply().cookie, 3u);
  server.tier.AwaitHeldFetches(6);
  EXPECT_FALSE(server.client.AnythingToReceive(10)) << "there is no memory for the next read";
  server.tier.HoldFetches(false);
  EXPECT_EQ(server.client.ReceiveReply().cookie, 2u);
  EXPECT_TRUE(Same(server.client.Receive(kPayloadBytesMax), bytes));
  std::map<std::uint64_t, Bytes> rest;
  for (int i = 0; i < 2; ++i) {
    const std::uint64_t cookie = server.client.ReceiveReply().cookie;
    rest[cookie] = cookie == 4 ? server.client.Receive(2 * kPage) : Bytes{};
  }
  EXPECT_EQ(rest,
            (std::map<std::uint64_t, Bytes>{{4, Part(bytes, 99 * kPage, 2 * kPage)}, {5, {}}}));
}

TEST(ParkedRead, IsAnsweredAfterDisconnect) {
  Server server(64);
  server.tier.SetRemote(0, 64);
  server.tier.HoldFetches(true);
  Bytes batch = RequestBytes(Command::kRead, 1, 0, 8 * kPage);
  Append(batch, RequestBytes(Command::kDisconnect, 2, 0, 0));
  server.client.Send(batch);
  server.tier.AwaitHeldFetches(1);
  EXPECT_FALSE(server.client.AnythingToReceive(20));
  server.tier.HoldFetches(false);
  server.client.ReceiveReads({{1, 8 * kPage}});
  EXPECT_TRUE(server.client.AtEnd());
}

TEST(ParkedRead, OutlivesAClientThatIsGone) {
  for (int round = 0; round < 20; ++round) {
    Server server(1024);
    server.tier.SetRemote(0, 1024);
    server.tier.HoldFetches(true);
    Bytes batch;
    for (std::uint64_t i = 0; i < 40; ++i) {
      Append(batch, RequestBytes(Command::kRead, i, i * 16 * kPage, 4 * kPage));
    }
    server.client.Send(batch);
    server.tier.AwaitHeldFetches(40);
    if (round % 2 == 0) server.Shutdown();
    server.client.Leave();
    server.tier.HoldFetches(false);
    server.AwaitEnd();
  }
}

TEST(ParkedRead, ManyOnManyConnectionsKeepTheirBytesInOrder) {
  FakeTier tier(4096);
  for (tier::SlotIndex i = 0; i < 4096; ++i) {
    FakeTier::Page page;
    page.fill(static_cast<std::byte>(i % 251));
    tier.Poke(i, page);
    if (i % 2 == 0) tier.SetRemote(i, 1);
  }
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t) {
    threads.emplace_back([&tier, t] {
      Client client;
      auto created = Connection::Create(&tier, 4096 * kPageBytes, client.server_end(), {});
      ASSERT_TRUE(created.ok());
      std::thread serving([&] {
        created.value()->Run();
        created.value().reset();
      });
      std::mt19937 random(t);
      for (int round = 0; round < 40; ++round) {
        Bytes batch;
        std::map<std::uint64_t, std::size_t> lengths;
        std::map<std::uint64_t, std::uint64_t> firsts;
        for (std::uint64_t i = 0; i < 32; ++i) {
          firsts[i] = random() % 4090;
          lengths[i] = (1 + random() % 6) * kPage;
          Append(batch, RequestBytes(Command::kRead, i, firsts[i] * kPage,
                                     static_cast<std::uint32_t>(lengths[i])));
        }
        client.Send(batch);
        for (const auto& [cookie, data] : client.ReceiveReads(lengths)) {
          for (std::size_t at = 0; at < data.size(); at += kPage) {
            const auto expected = static_cast<std::byte>((firsts[cookie] + at / kPage) % 251);
            ASSERT_EQ(Part(data, at, kPage), Bytes(kPage, expected));
          }
        }
      }
      client.Leave();
      serving.join();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace farswap::nbd
