// The life of connections.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "hang_guard.h"
#include "made_ring.h"
#include "nbd/connection_set.h"
#include "nbd/ring_socket.h"
#include "nbd_client.h"
#include "nbd_fake_tier.h"

namespace farswap::nbd {
namespace {

using std::chrono::milliseconds;
using tier::kPageBytes;

class ConnectionSetTest : public testing::Test {
 protected:
  std::uint64_t Connect(Client& client, const std::string& peer = "unix pid=1") {
    auto id = connections.Serve(client.server_end(), {}, peer);
    EXPECT_TRUE(id.ok());
    return id.value();
  }

  FakeTier tier{64};
  ConnectionSet connections{&tier, 64 * kPageBytes};
};

TEST_F(ConnectionSetTest, SharesOneTruthBetweenConnections) {
  Client first;
  Client second;
  EXPECT_NE(Connect(first), Connect(second));
  first.Write(0, RandomBytes(kPageBytes, 1));
  EXPECT_EQ(second.Read(0, kPageBytes), RandomBytes(kPageBytes, 1));
}

TEST_F(ConnectionSetTest, ListsWhatIsBeingServed) {
  Client client;
  const std::uint64_t id = Connect(client, "tcp:127.0.0.1:9");
  client.Write(0, RandomBytes(kPageBytes, 1));
  client.Do(Command::kRead, 0, 0);
  const auto infos = connections.List();
  ASSERT_EQ(infos.size(), 1u);
  EXPECT_EQ(infos[0].id, id);
  EXPECT_EQ(infos[0].peer, "tcp:127.0.0.1:9");
  EXPECT_EQ(infos[0].requests, 2u);
  EXPECT_EQ(infos[0].errors, 1u);
  EXPECT_EQ(infos[0].last_refusal, "length is zero");
}

TEST_F(ConnectionSetTest, ServesAConnectionWhoseStateOutlivesIt) {
  auto memory = Memory::Create(sizeof(ConnectionState), "test");
  ASSERT_TRUE(memory.ok());
  const Bytes initial = RequestBytes(Command::kFlush, 7, 0, 0);
  ConnectionState* const state =
      ConnectionState::Begin({memory.value()->data(), memory.value()->bytes()}, initial);
  io_uring_params parameters;
  const FileDescriptor ring = MadeRing(&parameters);
  if (!ring.open()) GTEST_SKIP() << "io_uring: " << std::strerror(errno);
  Client client;
  auto socket = RingSocket::Create(client.server_end(), ring.get(), parameters, &state->stream);
  ASSERT_TRUE(socket.ok());
  auto id = connections.Serve(state, std::move(socket.value()), "unix pid=1");
  ASSERT_TRUE(id.ok());
  EXPECT_EQ(client.ReceiveReply().cookie, 7u);
  const Bytes page = RandomBytes(kPageBytes, 1);
  EXPECT_EQ(client.Write(0, page), 0u);
  EXPECT_EQ(client.Read(0, kPageBytes), page);
  client.Leave();
  EXPECT_TRUE(connections.Wait(id.value(), kHangGuard));
  EXPECT_GT(state->generation, 2u);
  EXPECT_EQ(state->stream.received, 2 * kRequestBytes + kPageBytes);
  EXPECT_EQ(state->stream.sent, 3 * kSimpleReplyBytes + kPageBytes);
}

TEST_F(ConnectionSetTest, ForgetsAConnectionWhoseClientLeaves) {
  Client client;
  const std::uint64_t id = Connect(client);
  EXPECT_FALSE(connections.Wait(id, milliseconds(1)));
  client.Leave();
  EXPECT_TRUE(connections.Wait(id, kHangGuard));
  EXPECT_TRUE(connections.List().empty());
  EXPECT_FALSE(connections.Close(id));
}

TEST_F(ConnectionSetTest, ClosesOneConnectionAndLeavesTheOthers) {
  Client closed;
  Client kept;
  const std::uint64_t id = Connect(closed);
  Connect(kept);
  EXPECT_TRUE(connections.Close(id));
  EXPECT_TRUE(connections.Wait(id, kHangGuard));
  EXPECT_TRUE(closed.AtEnd());
  EXPECT_EQ(kept.Do(Command::kFlush, 0, 0), 0u);
}

TEST_F(ConnectionSetTest, StopsWithClientsThatNeitherSendNorReceive) {
  Client idle;
  Connect(idle);
  Client deaf;
  Connect(deaf);
  Bytes batch;
  for (std::uint64_t i = 0; i < 64; ++i) {
    Append(batch, RequestBytes(Command::kRead, i, 0, 64 * kPageBytes));
  }
  deaf.Send(batch);
  connections.Stop();
  connections.Stop();
  EXPECT_TRUE(connections.List().empty());
  EXPECT_TRUE(idle.AtEnd());
}

TEST_F(ConnectionSetTest, RefusesConnectionsWhenStopped) {
  connections.Stop();
  Client client;
  EXPECT_FALSE(connections.Serve(client.server_end(), {}, "late").ok());
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(ConnectionSetTest, StopWaitsForParkedReads) {
  Client client;
  Connect(client);
  tier.SetRemote(0, 64);
  tier.HoldFetches(true);
  client.Send(RequestBytes(Command::kRead, 1, 0, kPageBytes));
  tier.AwaitHeldFetches(1);
  connections.CloseAll();
  tier.HoldFetches(false);
  connections.Stop();
}

TEST_F(ConnectionSetTest, ServesClientsThatComeAndGo) {
  for (int i = 0; i < 100; ++i) {
    Client client;
    Connect(client);
    EXPECT_EQ(client.Do(Command::kFlush, 0, 0), 0u);
  }
}

}  // namespace
}  // namespace farswap::nbd
