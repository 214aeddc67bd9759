// Writes whose pages wait for room, over a tier that lets them wait for as long as a test wants.
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "nbd_server.h"

namespace farswap::nbd {
namespace {

using tier::IoStatus;
using tier::kPageBytes;
using tier::SlotIndex;

constexpr std::uint32_t kPage = kPageBytes;
constexpr std::uint32_t kOk = 0;
constexpr auto kEnospc = static_cast<std::uint32_t>(WireError::kNoSpace);

class ParkedWrite : public ::testing::Test {
 protected:
  static constexpr SlotIndex kSlots = 4096;

  static Bytes WriteRequest(std::uint64_t cookie, SlotIndex first, const Bytes& pages) {
    Bytes message = RequestBytes(Command::kWrite, cookie, std::uint64_t{first} * kPage,
                                 static_cast<std::uint32_t>(pages.size()));
    Append(message, pages);
    return message;
  }
  void SendWrite(std::uint64_t cookie, SlotIndex first, const Bytes& pages) {
    server_.client.Send(WriteRequest(cookie, first, pages));
  }
  Bytes Slots(SlotIndex first, std::uint32_t count) {
    return server_.client.Read(std::uint64_t{first} * kPage, count * kPage);
  }
  static Bytes Part(const Bytes& bytes, std::size_t first_page, std::size_t pages) {
    const auto at = bytes.begin() + static_cast<std::ptrdiff_t>(first_page * kPage);
    return {at, at + static_cast<std::ptrdiff_t>(pages * kPage)};
  }

  Server server_{kSlots};
  FakeTier& tier_ = server_.tier;
};

TEST_F(ParkedWrite, DoesNotHoldUpTheRequestsBehindIt) {
  tier_.HoldStores(1, 1, true);
  const Bytes page = RandomBytes(kPage, 1);
  SendWrite(77, 1, page);
  EXPECT_EQ(server_.client.Write(2 * kPage, RandomBytes(kPage, 2)), kOk);
  EXPECT_EQ(Slots(2, 1), RandomBytes(kPage, 2));
  EXPECT_EQ(server_.client.Do(Command::kTrim, 2 * kPage, kPage), kOk);
  EXPECT_EQ(tier_.HeldStores(), 1u);
  tier_.HoldStores(1, 1, false);
  const Client::Reply reply = server_.client.ReceiveReply();
  EXPECT_EQ(reply.cookie, 77u);
  EXPECT_EQ(reply.error, kOk);
  EXPECT_EQ(Slots(1, 1), page);
}

TEST_F(ParkedWrite, IsAnsweredWhenTheLastOfItsPagesIsStored) {
  tier_.HoldStores(1, 1, true);
  tier_.HoldStores(3, 2, true);
  const Bytes pages = RandomBytes(6 * kPage, 1);
  SendWrite(77, 0, pages);
  tier_.AwaitHeldStores(3);
  tier_.HoldStores(3, 2, false);
  EXPECT_EQ(server_.client.Do(Command::kFlush, 0, 0), kOk);
  EXPECT_FALSE(server_.client.AnythingToReceive(0));
  tier_.HoldStores(1, 1, false);
  EXPECT_EQ(server_.client.ReceiveReply().cookie, 77u);
  EXPECT_EQ(Slots(0, 6), pages);
}

TEST_F(ParkedWrite, IsAnsweredAfterItsPayloadThoughItsPageIsStoredBefore) {
  tier_.HoldStores(0, 1, true);
  const Bytes pages = RandomBytes(2 * kPage, 1);
  const Bytes message = WriteRequest(77, 0, pages);
  server_.client.Send(std::span(message).first(kRequestBytes + kPage));
  tier_.AwaitHeldStores(1);
  tier_.HoldStores(0, 1, false);
  EXPECT_FALSE(server_.client.AnythingToReceive(10));
  server_.client.Send(std::span(message).subspan(kRequestBytes + kPage));
  EXPECT_EQ(server_.client.ReceiveReply().cookie, 77u);
  EXPECT_EQ(Slots(0, 2), pages);
}

// Of 0 to 5 the pages 1 and 3 wait; 3 is refused while the payload is still to come.
TEST_F(ParkedWrite, ThatIsRefusedLeavesNoneOfItsOlderPages) {
  const Bytes older = RandomBytes(6 * kPage, 1);
  ASSERT_EQ(server_.client.Write(0, older), kOk);
  tier_.HoldStores(1, 1, true);
  tier_.HoldStores(3, 1, true);
  const Bytes newer = RandomBytes(6 * kPage, 2);
  const Bytes message = WriteRequest(77, 0, newer);
  server_.client.Send(std::span(message).first(kRequestBytes + 4 * kPage));
  tier_.AwaitHeldStores(2);
  tier_.FailStores(3, IoStatus::kNoSpace);
  tier_.HoldStores(3, 1, false);
  tier_.AwaitRefusedStore();
  server_.client.Send(std::span(message).subspan(kRequestBytes + 4 * kPage));
  // Slot 1 waits on: the WRITE is not answered before its last page is stored or refused.
  EXPECT_FALSE(server_.client.AnythingToReceive(10));
  tier_.HoldStores(1, 1, false);
  const Client::Reply reply = server_.client.ReceiveReply();
  EXPECT_EQ(reply.cookie, 77u);
  EXPECT_EQ(reply.error, kEnospc);
  EXPECT_EQ(server_.errors(), 1u);
  EXPECT_EQ(Slots(0, 3), Part(newer, 0, 3)) << "each page by itself, in any order";
  EXPECT_EQ(Slots(3, 3), Bytes(3 * kPage)) << "refused, and what came behind";
}

TEST_F(ParkedWrite, BeyondTheirMemoryIsStoredWhole) {
  constexpr std::uint32_t kPages = ConnectionState::kParkedStores - 100;
  tier_.HoldStores(0, 2 * kPages, true);
  const Bytes pages = RandomBytes(2 * kPages * kPage, 1);
  std::thread sender([&] {
    SendWrite(77, 0, Part(pages, 0, kPages));
    SendWrite(78, kPages, Part(pages, kPages, kPages));
  });
  tier_.AwaitHeldStores(ConnectionState::kParkedStores);
  tier_.HoldStores(0, 2 * kPages, false);
  sender.join();
  EXPECT_EQ(server_.client.ReceiveReads({{77, 0}, {78, 0}}).size(), 2u);
  EXPECT_EQ(Slots(0, kPages), Part(pages, 0, kPages));
  EXPECT_EQ(Slots(kPages, kPages), Part(pages, kPages, kPages));
}

TEST_F(ParkedWrite, OnlyWhatMustWaitWaitsWhenTheirMemoryIsFull) {
  constexpr std::uint32_t kPages = ConnectionState::kParkedStores;
  tier_.HoldStores(0, kPages + 1, true);
  SendWrite(77, 0, RandomBytes(kPages * kPage, 1));
  tier_.AwaitHeldStores(kPages);
  EXPECT_EQ(server_.client.Write(2000 * kPage, RandomBytes(kPage, 2)), kOk);
  Bytes batch = RequestBytes(Command::kFlush, 78, 0, 0);
  Append(batch, WriteRequest(79, kPages, RandomBytes(kPage, 3)));
  Append(batch, RequestBytes(Command::kFlush, 80, 0, 0));
  server_.client.Send(batch);
  EXPECT_EQ(server_.client.ReceiveReply().cookie, 78u) << "sent before the thread waits";
  EXPECT_FALSE(server_.client.AnythingToReceive(10));
  tier_.HoldStores(0, kPages + 1, false);
  std::vector<std::uint64_t> cookies;
  for (int i = 0; i < 3; ++i) cookies.push_back(server_.client.ReceiveReply().cookie);
  std::sort(cookies.begin(), cookies.end());
  EXPECT_EQ(cookies, (std::vector<std::uint64_t>{77, 79, 80}));
  EXPECT_EQ(Slots(kPages, 1), RandomBytes(kPage, 3));
}

TEST_F(ParkedWrite, IsTakenBackWhenTheClientLeaves) {
  const Bytes older = RandomBytes(4 * kPage, 1);
  ASSERT_EQ(server_.client.Write(0, older), kOk);
  tier_.HoldStores(0, 4, true);
  SendWrite(77, 0, RandomBytes(2 * kPage, 2));
  const Bytes incomplete = WriteRequest(78, 2, RandomBytes(2 * kPage, 3));
  server_.client.Send(std::span(incomplete).first(kRequestBytes + kPage));
  tier_.AwaitHeldStores(3);
  server_.client.Leave();
  server_.AwaitEnd();
  EXPECT_EQ(tier_.HeldStores(), 0u);
  for (SlotIndex slot = 0; slot < 4; ++slot) {
    const FakeTier::Page page = tier_.Peek(slot);
    EXPECT_EQ(Bytes(page.begin(), page.end()), Part(older, slot, 1));
  }
}

TEST_F(ParkedWrite, IsNotAnsweredAfterDisconnectThoughWhatCameBeforeIs) {
  tier_.HoldStores(0, 1, true);
  Bytes batch = WriteRequest(77, 0, RandomBytes(kPage, 1));
  Append(batch, RequestBytes(Command::kFlush, 78, 0, 0));
  Append(batch, RequestBytes(Command::kDisconnect, 79, 0, 0));
  server_.client.Send(batch);
  EXPECT_EQ(server_.client.ReceiveReply().cookie, 78u);
  EXPECT_TRUE(server_.client.AtEnd());
  server_.AwaitEnd();
  EXPECT_EQ(tier_.HeldStores(), 0u);
}

TEST_F(ParkedWrite, CompletionsNeverWaitForAClientThatDoesNotRead) {
  constexpr std::uint32_t kReads = 20;
  const Bytes bytes = RandomBytes(256 * kPage, 1);
  ASSERT_EQ(server_.client.Write(0, bytes), kOk);
  tier_.HoldStores(300, 2, true);
  SendWrite(77, 300, RandomBytes(kPage, 2));
  tier_.AwaitHeldStores(1);
  for (std::uint64_t i = 0; i < kReads; ++i) {
    server_.client.Send(RequestBytes(Command::kRead, i, 0, 256 * kPage));
  }
  // The connection's thread cannot send now, and the tier's thread must not wait for it.
  tier_.HoldStores(300, 1, false);
  tier_.AwaitNoHeldStores();
  std::map<std::uint64_t, std::size_t> lengths;
  for (std::uint64_t i = 0; i < kReads; ++i) lengths[i] = 256 * kPage;
  lengths[77] = 0;
  for (const auto& [cookie, data] : server_.client.ReceiveReads(lengths)) {
    EXPECT_EQ(data, cookie == 77 ? Bytes{} : bytes);
  }
}

}  // namespace
}  // namespace farswap::nbd
