// Who owns a volume, as a host sees it: no live owner is displaced but by an operator's word, and
// the host says that it lives as long as it does.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "remote/cluster.h"
#include "remote_borrowers.h"
#include "remote_chaos_proxy.h"
#include "remote_fake_store.h"

namespace farswap::remote {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using tier::GetResult;
using tier::kShardSlots;
using tier::PutResult;

constexpr milliseconds kLease{500};
constexpr milliseconds kShortLease{50};

class OwnershipTest : public ::testing::Test {
 protected:
  OwnershipTest() {
    for (FakeStore* store : {&store_, &other_}) {
      store->Tell([](FakeStore::Script* script) { script->lease = kLease; });
    }
  }

  // Another host has store_ for good. Hosts of the test wait for its end for some short leases.
  void GiveAway() {
    store_.Tell([](FakeStore::Script* script) { script->lease = kShortLease; });
    store_.BeOwnedFor(kHangGuard);
  }
  void HoldCloses(bool hold) {
    for (FakeStore* store : {&store_, &other_}) {
      store->Tell([&](FakeStore::Script* script) { script->hold_closes = hold; });
    }
  }
  static std::string StateOf(const Cluster& cluster, std::size_t server = 0) {
    return NameOf(cluster.Servers()[server].state);
  }
  static bool Reaches(const Cluster& cluster, const std::string& state, std::size_t server = 0) {
    return Eventually([&] { return StateOf(cluster, server) == state; });
  }

  FakeStore store_;
  FakeStore other_;
};

TEST_F(OwnershipTest, OpenWhoseAnswerWasLostIsRepeatedAndFencesNobody) {
  store_.Tell([](FakeStore::Script* script) { script->fail_open = true; });
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  EXPECT_EQ(store_.seen().opens, 2u);
  EXPECT_EQ(cluster->Servers()[0].epoch, 1u);
  EXPECT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
}

TEST_F(OwnershipTest, IdleOwnerStaysAlive) {
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  ASSERT_TRUE(Eventually([&] { return store_.seen().heartbeats >= 10; }));
  EXPECT_EQ(cluster->Servers()[0].reconnects, 0u);
}

TEST_F(OwnershipTest, ABacklogOfStoresDelaysNoHeartbeat) {
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  store_.Tell([](FakeStore::Script* script) { script->hold_puts = true; });
  std::vector<std::unique_ptr<TestBatch>> batches;
  for (int i = 0; i < 64; ++i) {
    batches.push_back(std::make_unique<TestBatch>());
    for (tier::SlotIndex slot = 1; slot <= 256; ++slot) batches.back()->Add(slot, 1);
    Put(*cluster, *batches.back());
  }
  const std::uint64_t before = store_.seen().heartbeats;
  EXPECT_TRUE(Eventually([&] { return store_.seen().heartbeats >= before + 10; }));
  EXPECT_EQ(cluster->Servers()[0].reconnects, 0u);
  store_.Tell([](FakeStore::Script* script) { script->hold_puts = false; });
  for (const auto& batch : batches) ASSERT_TRUE(batch->done.Wait());
}

TEST_F(OwnershipTest, HeartbeatsTellWhatTheServerHasRoomFor) {
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  store_.Tell([](FakeStore::Script* script) {
    script->used_bytes = 12345;
    script->state = v1::SERVER_STATE_DISK_FULL;
  });
  EXPECT_TRUE(Eventually([&] { return !cluster->Writable(); }));
  EXPECT_EQ(cluster->Servers()[0].used_bytes, 12345u);
  store_.Tell([](FakeStore::Script* script) { script->state = v1::SERVER_STATE_ACTIVE; });
  EXPECT_TRUE(Eventually([&] { return cluster->Writable(); }));
}

TEST_F(OwnershipTest, ServerWhereTheQuotaIsReachedIsNamedAndGetsNoPagesUntilThereIsRoom) {
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  EXPECT_FALSE(cluster->Servers()[0].at_quota);
  store_.Tell([](FakeStore::Script* script) { script->state = v1::SERVER_STATE_QUOTA_REACHED; });
  EXPECT_TRUE(Eventually([&] { return cluster->Servers()[0].at_quota; }));
  EXPECT_FALSE(cluster->Writable());
  EXPECT_TRUE(cluster->Servers()[0].connected());
  store_.Tell([](FakeStore::Script* script) { script->state = v1::SERVER_STATE_ACTIVE; });
  EXPECT_TRUE(Eventually([&] { return cluster->Writable(); }));
  EXPECT_FALSE(cluster->Servers()[0].at_quota);
}

TEST_F(OwnershipTest, DrainingServerGetsNoNewShards) {
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  ASSERT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
  store_.Tell([](FakeStore::Script* script) { script->state = v1::SERVER_STATE_DRAINING; });
  tier::SlotIndex fresh = 0;
  EXPECT_TRUE(Eventually(
      [&] { return PutOne(*cluster, fresh += kShardSlots, 1) == PutResult::kServerFull; }));
  EXPECT_EQ(PutOne(*cluster, 0, 2), PutResult::kAcked);
}

TEST_F(OwnershipTest, ServerThatAnswersNoHeartbeatIsLeft) {
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  store_.Tell([](FakeStore::Script* script) { script->ignore_heartbeats = true; });
  EXPECT_TRUE(Eventually([&] { return cluster->Servers()[0].reconnects > 0; }));
  store_.Tell([](FakeStore::Script* script) { script->ignore_heartbeats = false; });
}

TEST_F(OwnershipTest, HeartbeatFindsOutThatTheVolumeWasTakenOver) {
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  store_.BeOwnedFor(kHangGuard);
  EXPECT_TRUE(Reaches(*cluster, "fenced"));
  EXPECT_TRUE(Eventually([&] { return cluster->Servers()[0].owner_name == "other-host"; }));
  EXPECT_EQ(cluster->Servers()[0].owner_address, "192.0.2.1");
  EXPECT_NE(cluster->Servers()[0].last_error.find("fenced"), std::string::npos);
  EXPECT_EQ(StateOf(*cluster), "fenced");
  EXPECT_EQ(PutOne(*cluster, 0, 1), PutResult::kUnavailable);
}

TEST_F(OwnershipTest, FencedHostAnswersReadsAtOnce) {
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  ASSERT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
  store_.BeOwnedFor(kHangGuard);
  ASSERT_TRUE(Reaches(*cluster, "fenced"));
  EXPECT_EQ(GetOne(*cluster, 0), GetResult::kUnavailable);
}

TEST_F(OwnershipTest, OrderlyStopLeavesTheVolumeToTheNextEngine) {
  auto first = NewCluster(TestConfig({store_.address(), other_.address()}));
  ASSERT_TRUE(Connected(*first, 0) && Connected(*first, 1));
  first.reset();
  EXPECT_EQ(store_.seen().closes, 1u);
  EXPECT_EQ(other_.seen().closes, 1u);
  const auto second = NewCluster(TestConfig({store_.address(), other_.address()}));
  EXPECT_TRUE(Connected(*second, 0) && Connected(*second, 1));
  EXPECT_EQ(store_.seen().probes, 2u) << "one each, since none was refused";
}

TEST_F(OwnershipTest, StopClosesItsVolumesTogether) {
  ClusterConfig config = TestConfig({store_.address(), other_.address()});
  config.close_wait = 2 * kHangGuard;
  const auto cluster = NewCluster(config);
  ASSERT_TRUE(Connected(*cluster, 0) && Connected(*cluster, 1));
  HoldCloses(true);
  std::thread stopping([&] { cluster->Stop(); });
  EXPECT_TRUE(Eventually([&] { return store_.seen().closes == 1 && other_.seen().closes == 1; }));
  HoldCloses(false);
  stopping.join();
}

TEST_F(OwnershipTest, StopEndsWithoutTheAnswersOfSilentServers) {
  ClusterConfig config = TestConfig({store_.address(), other_.address()});
  config.close_wait = milliseconds(50);
  const auto cluster = NewCluster(config);
  ASSERT_TRUE(Connected(*cluster, 0) && Connected(*cluster, 1));
  HoldCloses(true);
  cluster->Stop();
  EXPECT_EQ(PutOne(*cluster, 0, 1), PutResult::kUnavailable);
}

TEST_F(OwnershipTest, LiveOwnerIsNotDisplacedAndTheSecondHostReportsWhoItIs) {
  const auto first = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*first));
  ASSERT_EQ(PutOne(*first, 0, 1), PutResult::kAcked);
  const auto second = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Reaches(*second, "waiting"));
  EXPECT_EQ(second->Servers()[0].owner_name, "other-host");
  const auto began = steady_clock::now();
  ASSERT_TRUE(Reaches(*second, "already_open"));
  EXPECT_GE(steady_clock::now() - began, 2 * kLease);
  EXPECT_EQ(second->Servers()[0].last_error, "already open: other-host (192.0.2.1) has the volume");
  EXPECT_FALSE(second->Writable());
  EXPECT_EQ(PutOne(*second, 0, 1), PutResult::kUnavailable);
  EXPECT_TRUE(Holds(*first, 0, 1));
  EXPECT_EQ(store_.seen().opens, 1u);
}

TEST_F(OwnershipTest, HostThatWaitedTooLongLeavesTheVolumeAloneWhenItsOwnerGoes) {
  GiveAway();
  const auto second = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Reaches(*second, "already_open"));
  store_.BeOwnedFor(milliseconds(0));
  const std::uint64_t asked = store_.seen().probes;
  std::this_thread::sleep_for(4 * kShortLease);
  EXPECT_EQ(store_.seen().probes, asked);
  EXPECT_EQ(store_.seen().opens, 0u);
}

TEST_F(OwnershipTest, VolumeOfADeadOwnerIsOpenedWithinItsLease) {
  store_.BeOwnedFor(kLease);
  const auto began = steady_clock::now();
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  EXPECT_GE(steady_clock::now() - began, kLease / 2);
  EXPECT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
}

TEST_F(OwnershipTest, NoServerIsOpenedWhileOneNamesAnOwner) {
  store_.BeOwnedFor(kLease);
  const auto cluster = NewCluster(TestConfig({store_.address(), other_.address()}));
  ASSERT_TRUE(Reaches(*cluster, "waiting"));
  EXPECT_EQ(other_.seen().opens, 0u);
  EXPECT_TRUE(Connected(*cluster, 0) && Connected(*cluster, 1));
}

TEST_F(OwnershipTest, OneServerThatNamesAnOwnerKeepsTheHostFromAll) {
  GiveAway();
  const auto cluster = NewCluster(TestConfig({other_.address(), store_.address()}));
  EXPECT_TRUE(Reaches(*cluster, "already_open", 0));
  EXPECT_TRUE(Reaches(*cluster, "already_open", 1));
  EXPECT_EQ(cluster->Servers()[0].last_error, "not opened: another memory server names an owner");
  EXPECT_EQ(other_.seen().opens, 0u);
}

TEST_F(OwnershipTest, SilentServerHoldsUpNobodyAndAloneIsNotUsed) {
  store_.Stop();
  const auto cluster = NewCluster(TestConfig({other_.address(), store_.address()}));
  ASSERT_TRUE(Connected(*cluster, 0));
  GiveAway();
  store_.Start();
  EXPECT_TRUE(Reaches(*cluster, "already_open", 1));
  EXPECT_EQ(StateOf(*cluster, 0), "active");
  EXPECT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
  EXPECT_EQ(store_.seen().take_overs, 0u);
}

TEST_F(OwnershipTest, TakeOverDisplacesTheOwnerAtTheFirstOpenAlone) {
  const auto first = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*first));
  ClusterConfig config = TestConfig({store_.address()});
  config.take_over = true;
  const auto second = NewCluster(config);
  ASSERT_TRUE(Connected(*second));
  EXPECT_TRUE(Reaches(*first, "fenced"));
  EXPECT_EQ(PutOne(*second, 0, 1), PutResult::kAcked);
  EXPECT_EQ(store_.seen().take_overs, 1u);
  // A third host, displacing the second, is not displaced in turn.
  store_.Stop();
  GiveAway();
  store_.Start();
  EXPECT_TRUE(Reaches(*second, "already_open"));
  EXPECT_EQ(store_.seen().take_overs, 1u);
}

TEST_F(OwnershipTest, OwnerThatWasAwayLongerThanItsLeaseGoesOnIfNobodyCame) {
  ChaosProxy proxy(store_.port());
  ClusterConfig config = TestConfig({proxy.address()});
  config.open_wait = milliseconds(200);
  const auto cluster = NewCluster(config);
  ASSERT_TRUE(Connected(*cluster));
  ASSERT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
  proxy.Stall(true);
  proxy.Cut();
  store_.EndLease();
  proxy.Stall(false);
  EXPECT_TRUE(Holds(*cluster, 0, 1));
  EXPECT_EQ(cluster->Servers()[0].epoch, 1u);
}

}  // namespace
}  // namespace farswap::remote
