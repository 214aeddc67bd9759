// Which memory server is which, as a host sees it: by the uuid of its store, not by its address.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "remote/cluster.h"
#include "remote_borrowers.h"
#include "remote_chaos_proxy.h"
#include "remote_fake_store.h"

namespace farswap::remote {
namespace {

using std::chrono::milliseconds;
using tier::GetResult;
using tier::kShardSlots;
using tier::PutResult;

class IdentityTest : public ::testing::Test {
 protected:
  IdentityTest() {
    for (FakeStore* store : {&store_, &other_}) {
      store->Tell([](FakeStore::Script* script) { script->lease = milliseconds(500); });
    }
  }

  void MakeOtherACopy() {
    std::string uuid;
    store_.Tell([&](FakeStore::Script* script) { uuid = script->uuid; });
    other_.Tell([&](FakeStore::Script* script) { script->uuid = uuid; });
  }

  static bool Reaches(const Cluster& cluster, const std::string& state, std::size_t server = 0) {
    return Eventually([&] { return NameOf(cluster.Servers()[server].state) == state; });
  }

  FakeStore store_;
  FakeStore other_;
};

TEST_F(IdentityTest, SecondNameOfAServerIsRefusedWithBothAndHarmsNothing) {
  ChaosProxy alias(store_.port());
  const auto cluster = NewCluster(TestConfig({store_.address(), alias.address()}));
  std::size_t used = 0;
  ASSERT_TRUE(Eventually([&] {
    const auto servers = cluster->Servers();
    used = servers[0].connected() ? 0 : 1;
    return servers[used].connected() && servers[1 - used].state == SessionState::kDuplicate;
  }));
  const auto refused = cluster->Servers()[1 - used];
  EXPECT_NE(refused.last_error.find(store_.address()), std::string::npos) << refused.last_error;
  EXPECT_NE(refused.last_error.find(alias.address()), std::string::npos) << refused.last_error;
  for (tier::SlotIndex shard = 0; shard < 50; ++shard) {
    ASSERT_EQ(PutOne(*cluster, shard * kShardSlots, 1), PutResult::kAcked);
    ASSERT_TRUE(Holds(*cluster, shard * kShardSlots, 1));
  }
  EXPECT_EQ(cluster->Servers()[used].shards, 50u);
  EXPECT_EQ(cluster->Servers()[1 - used].shards, 0u);
  EXPECT_EQ(cluster->Servers()[used].epoch, 1u);
}

TEST_F(IdentityTest, CopyOfAStoreIsRefusedWhileTheFirstAnswers) {
  MakeOtherACopy();
  other_.Stop();
  const auto cluster = NewCluster(TestConfig({store_.address(), other_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  other_.Start();
  ASSERT_TRUE(Reaches(*cluster, "clone", 1));
  const std::string error = cluster->Servers()[1].last_error;
  EXPECT_NE(error.find(store_.address()), std::string::npos) << error;
  EXPECT_NE(error.find(other_.address()), std::string::npos) << error;
  ASSERT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
  EXPECT_TRUE(store_.Has(0));
}

TEST_F(IdentityTest, ServerWhoseAddressChangedGoesOnWhereItIs) {
  ChaosProxy moved(store_.port());
  ChaosProxy before(store_.port());
  moved.Stall(true);
  ClusterConfig config = TestConfig({before.address(), moved.address()});
  config.open_wait = milliseconds(300);
  const auto cluster = NewCluster(config);
  ASSERT_TRUE(Connected(*cluster));
  ASSERT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
  before.Stall(true);
  before.Cut();
  TestFetch fetch(0);
  Get(*cluster, fetch);
  moved.Cut();
  moved.Stall(false);
  ASSERT_TRUE(fetch.done.Wait());
  EXPECT_TRUE(fetch.Holds(0, 1));
  EXPECT_EQ(cluster->Servers()[0].address, moved.address());
  EXPECT_EQ(ServerOf(*cluster, 0), moved.address());
  EXPECT_EQ(cluster->Servers()[0].epoch, 1u);
}

TEST_F(IdentityTest, FormerAddressThatIsNoLongerListedIsGivenUpAndItsSessionTakesAnother) {
  ChaosProxy moved(store_.port());
  ChaosProxy before(store_.port());
  const auto cluster = NewCluster(TestConfig({}));
  cluster->ListServers(std::vector{before.address()});
  ASSERT_TRUE(Connected(*cluster));
  ASSERT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
  before.Stall(true);
  before.Cut();
  cluster->ListServers(std::vector{moved.address()});
  ASSERT_TRUE(Eventually([&] { return cluster->Servers().size() == 1; }));
  EXPECT_EQ(cluster->Servers()[0].address, moved.address());
  EXPECT_TRUE(Holds(*cluster, 0, 1));
  before.Cut();
  before.Stall(false);
  cluster->ListServers(std::vector{moved.address(), other_.address()});
  ASSERT_TRUE(Connected(*cluster, 1));
  EXPECT_EQ(cluster->Servers()[1].address, other_.address());
  EXPECT_EQ(cluster->Servers().size(), 2u);
}

TEST_F(IdentityTest, AddressThatNeverAnsweredIsForgottenWhileItIsNotListed) {
  other_.Stop();
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  cluster->ListServers(std::vector{other_.address()});
  ASSERT_TRUE(Eventually([&] {
    return cluster->Servers().at(1).last_error == "failed to open the volume: Connection refused";
  }));
  cluster->ListServers({});
  ASSERT_TRUE(Eventually([&] { return cluster->Servers().size() == 1; }));
  ASSERT_TRUE(Connected(*cluster));
  other_.Start();
  cluster->ListServers(std::vector{other_.address()});
  ASSERT_EQ(cluster->Servers().size(), 2u);
  EXPECT_TRUE(Connected(*cluster, 1));
}

TEST_F(IdentityTest, AnotherStoreAtTheAddressLosesThePagesOfTheFirstAndTakesNewOnes) {
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  ASSERT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
  ASSERT_EQ(PutOne(*cluster, kShardSlots, 1), PutResult::kAcked);
  store_.Stop();
  TestFetch waiting(0);
  Get(*cluster, waiting);
  store_.Tell([](FakeStore::Script* script) { script->uuid = "another uuid 16B"; });
  store_.Start();
  ASSERT_TRUE(waiting.done.Wait());
  EXPECT_EQ(waiting.answered[0].result, GetResult::kNotFound);
  ASSERT_TRUE(Connected(*cluster));
  EXPECT_EQ(cluster->Servers()[0].lost_shards, 2u);
  EXPECT_EQ(GetOne(*cluster, 0), GetResult::kNotFound);
  EXPECT_EQ(ServerOf(*cluster, 0), "");
  EXPECT_TRUE(cluster->TakesDiscards(0));
  Discard(*cluster, {{.key = 0, .version = 1}});
  EXPECT_EQ(PutOne(*cluster, 1, 2), PutResult::kAcked);
  EXPECT_TRUE(Holds(*cluster, 1, 2));
  EXPECT_EQ(cluster->Servers()[0].shards, 1u);
}

TEST_F(IdentityTest, ShardsOfAStoreThatIsGoneGoToTheOthers) {
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  ASSERT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
  store_.Stop();
  TestBatch batch;
  batch.Add(0, 2);
  Put(*cluster, batch);
  store_.Tell([](FakeStore::Script* script) { script->uuid = "another uuid 16B"; });
  store_.Start();
  ASSERT_TRUE(batch.done.Wait());
  EXPECT_EQ(batch.results[0], PutResult::kUnavailable) << "it was for the first store";
  ASSERT_TRUE(Connected(*cluster));
  EXPECT_EQ(PutOne(*cluster, 0, 3), PutResult::kAcked);
  EXPECT_TRUE(Holds(*cluster, 0, 3));
}

TEST_F(IdentityTest, RestartAfterACrashOfTheServersMachineIsCounted) {
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  ASSERT_TRUE(Connected(*cluster));
  ASSERT_EQ(PutOne(*cluster, 0, 1), PutResult::kAcked);
  store_.Stop();
  store_.Tell([](FakeStore::Script* script) { script->unclean = true; });
  store_.Start();
  EXPECT_TRUE(Eventually([&] { return cluster->Servers()[0].unclean_restarts == 1; }));
  EXPECT_TRUE(Holds(*cluster, 0, 1));
}

TEST_F(IdentityTest, ServerWithoutIdentityIsNotUsed) {
  store_.Tell([](FakeStore::Script* script) { script->uuid = ""; });
  const auto cluster = NewCluster(TestConfig({store_.address()}));
  EXPECT_TRUE(Eventually(
      [&] { return cluster->Servers()[0].last_error.find("no identity") != std::string::npos; }));
  EXPECT_FALSE(cluster->Writable());
}

class RemovalTest : public IdentityTest {
 protected:
  void SayRemoved() {
    std::string uuid;
    store_.Tell([&](FakeStore::Script* script) { uuid = script->uuid; });
    other_.Tell([&](FakeStore::Script* script) { script->removed = {uuid}; });
  }

  // Both connected, the shard placed on store_ alone.
  std::unique_ptr<Cluster> PlaceOnFirst() {
    other_.Tell([](FakeStore::Script* script) { script->state = v1::SERVER_STATE_DRAINING; });
    ClusterConfig config = TestConfig({store_.address(), other_.address()});
    config.outage_wait = milliseconds(50);
    auto cluster = NewCluster(config);
    EXPECT_TRUE(Connected(*cluster, 0) && Connected(*cluster, 1));
    EXPECT_TRUE(Eventually([&] { return PutOne(*cluster, 0, 1) == PutResult::kAcked; }));
    EXPECT_EQ(ServerOf(*cluster, 0), store_.address());
    other_.Tell([](FakeStore::Script* script) { script->state = v1::SERVER_STATE_ACTIVE; });
    return cluster;
  }
};

TEST_F(RemovalTest, RemovedServerThatIsSilentIsForgottenWithItsShards) {
  const auto cluster = PlaceOnFirst();
  store_.Stop();
  ASSERT_TRUE(Eventually([&] {
    const PlacementInfo placement = cluster->Placement();
    return placement.away.size() == 1 && placement.away[0].last_shards == 1;
  }));
  EXPECT_EQ(cluster->Placement().away[0].shards, 1u);
  SayRemoved();
  ASSERT_TRUE(Eventually([&] { return cluster->Servers().size() == 1; }));
  EXPECT_EQ(cluster->Servers()[0].address, other_.address());
  ASSERT_TRUE(Eventually([&] { return cluster->Placement().lost == 1; }));
  ASSERT_TRUE(Eventually([&] { return cluster->Placement().away.empty(); }));
  EXPECT_EQ(GetOne(*cluster, 0), GetResult::kNotFound);
  EXPECT_EQ(PutOne(*cluster, 1, 2), PutResult::kAcked);
  EXPECT_EQ(ServerOf(*cluster, 0), other_.address());
}

TEST_F(RemovalTest, RemovedServerThatIsListedAgainIsRefusedAndAnotherStoreThereIsUsed) {
  const auto cluster = PlaceOnFirst();
  store_.Stop();
  SayRemoved();
  ASSERT_TRUE(Eventually([&] { return cluster->Servers().size() == 1; }));
  store_.Start();
  cluster->ListServers(std::vector<std::string>{store_.address()});
  ASSERT_TRUE(Reaches(*cluster, "removed", 0));
  store_.Tell([](FakeStore::Script* script) { script->uuid = "another uuid 16B"; });
  EXPECT_TRUE(Reaches(*cluster, "active", 0));
}

TEST_F(RemovalTest, RemovedServerThatAnswersKeepsItsPagesUntilTheyHaveMoved) {
  const auto cluster = PlaceOnFirst();
  SayRemoved();
  ASSERT_TRUE(Eventually([&] { return ServerOf(*cluster, 0) == other_.address(); }));
  EXPECT_EQ(cluster->Placement().lost, 0u);
  EXPECT_TRUE(NameOf(cluster->Servers()[0].state) == std::string("active"));
  store_.Stop();
  EXPECT_TRUE(Eventually([&] { return cluster->Servers().size() == 1; }));
  EXPECT_EQ(cluster->Placement().lost, 0u);
}

}  // namespace
}  // namespace farswap::remote
