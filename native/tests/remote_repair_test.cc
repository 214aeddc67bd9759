// Replicas that fall behind, are lost or leave, on real page servers: shards get their replicas
// back from server to server, and no page is lost.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "remote/cluster.h"
#include "remote_borrowers.h"
#include "store/page_server.h"
#include "store_damage.h"

namespace farswap::remote {
namespace {

using std::chrono_literals::operator""ms;
using tier::kShardSlots;
using tier::PutResult;

// Three servers with stores of their own, at fixed addresses.
class RepairTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kServers = 3;
  static constexpr std::size_t kShards = 6;
  static constexpr tier::SlotIndex kPagesAShard = 64;

  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "farswap-repair-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    for (std::size_t i = 0; i < kServers; ++i) StartServer(i);
  }
  void TearDown() override {
    cluster_.reset();
    for (auto& server : servers_) server.reset();
    std::filesystem::remove_all(directory_);
  }

  std::string PathOf(std::size_t server) const {
    return directory_ + "/" + std::to_string(server) + "-" + std::to_string(store_of_[server]);
  }
  void StartServer(std::size_t i) {
    auto created = store::PageServer::Create({.listen = "127.0.0.1:" + std::to_string(ports_[i]),
                                              .path = PathOf(i),
                                              .capacity_bytes = std::uint64_t{64} << 20,
                                              .block_cache_bytes = 8 << 20,
                                              .leases = {.owner_lease = 500ms}});
    ASSERT_TRUE(created.ok()) << created.error().message;
    servers_[i] = std::move(created.value());
    ports_[i] = servers_[i]->port();
  }
  void StopServer(std::size_t i) { servers_[i].reset(); }
  // The next StartServer() finds an empty store.
  void Wipe(std::size_t i) {
    StopServer(i);
    std::filesystem::remove_all(PathOf(i));
    ++store_of_[i];
  }

  void Connect(std::size_t replicas, std::chrono::milliseconds repair_after = 600'000ms,
               std::chrono::milliseconds outage_wait = 200ms) {
    std::vector<std::string> addresses;
    for (const int port : ports_) addresses.push_back("127.0.0.1:" + std::to_string(port));
    ClusterConfig config = TestConfig(addresses);
    config.replicas = replicas;
    config.outage_wait = outage_wait;
    config.repair_after = repair_after;
    cluster_ = NewCluster(config, &objects_);
    for (std::size_t i = 0; i < kServers; ++i) ASSERT_TRUE(Connected(*cluster_, i));
  }

  // Writes every page until it is acknowledged, in a higher version each time.
  void WriteAll() {
    for (std::size_t shard = 0; shard < kShards; ++shard) {
      const auto first = static_cast<tier::SlotIndex>(shard * kShardSlots);
      ASSERT_TRUE(Eventually([&] {
        ++version_;
        TestBatch batch;
        for (tier::SlotIndex page = 0; page < kPagesAShard; ++page) {
          batch.Add(first + page, version_);
        }
        Put(*cluster_, batch);
        EXPECT_TRUE(batch.done.Wait());
        version_of_[shard] = version_;
        for (std::size_t i = 0; i < batch.count; ++i) {
          if (batch.results[i] == PutResult::kAcked) objects_.Want(batch.objects[i].key, version_);
        }
        return std::all_of(batch.results.begin(), batch.results.begin() + kPagesAShard,
                           [](PutResult result) { return result == PutResult::kAcked; });
      }));
    }
  }
  void ExpectAll() {
    for (std::size_t shard = 0; shard < kShards; ++shard) {
      TestFetch fetch;
      for (tier::SlotIndex page = 0; page < kPagesAShard; ++page) {
        fetch.Add(static_cast<tier::SlotIndex>(shard * kShardSlots) + page);
      }
      Get(*cluster_, fetch);
      ASSERT_TRUE(fetch.done.Wait());
      for (std::size_t i = 0; i < fetch.count; ++i) {
        EXPECT_TRUE(fetch.Holds(i, version_of_[shard])) << "shard " << shard << " page " << i;
      }
    }
  }
  void AwaitNoDebt() {
    ASSERT_TRUE(Eventually([&] {
      const PlacementInfo placement = cluster_->Placement();
      return placement.debt == 0 && placement.copies == 0;
    })) << cluster_->Placement().debt;
  }
  void AwaitDebt() {
    ASSERT_TRUE(Eventually([&] { return cluster_->Placement().debt > 0; }));
  }
  std::size_t IndexOf(const std::string& address) const {
    std::size_t server = 0;
    while (cluster_->Servers()[server].address != address) ++server;
    return server;
  }
  std::uint32_t ShardsOn(std::size_t server) { return cluster_->Servers()[server].shards; }

  std::uint64_t StatOf(std::size_t server, const std::string& wanted) {
    std::uint64_t found = 0;
    for (const auto& [name, value] : servers_[server]->Stats()) {
      found += name == wanted ? value : 0;
    }
    return found;
  }
  // On the disk of a server, which then serves the other pages. The slot is of the first shard.
  void Damage(std::size_t server, tier::SlotIndex slot) {
    StopServer(server);
    ASSERT_TRUE(Eventually([&] { return !cluster_->Servers()[server].connected(); }));
    ASSERT_TRUE(store::DamageBytes(PathOf(server), BytesOf(slot, version_of_[0])));
    StartServer(server);
    ASSERT_TRUE(Eventually([&] { return cluster_->Servers()[server].connected(); }));
    AwaitNoDebt();
  }
  // Returns how many damaged records a pass has found.
  std::uint64_t ScrubUntilCompared(std::size_t server) {
    EXPECT_TRUE(servers_[server]->Scrub().ok());
    EXPECT_TRUE(Eventually([&] { return StatOf(server, "scrub_passes") == 1; }));
    EXPECT_TRUE(Eventually([&] { return StatOf(server, "scrub_damaged_shards") == 0; }));
    return StatOf(server, "scrub_damaged_records");
  }

  std::string directory_;
  std::array<int, kServers> ports_{};
  std::array<int, kServers> store_of_{};
  std::array<std::unique_ptr<store::PageServer>, kServers> servers_;
  TestObjects objects_;
  std::unique_ptr<Cluster> cluster_;
  tier::ObjectVersion version_ = 0;
  std::array<tier::ObjectVersion, kShards> version_of_{};
};

TEST_F(RepairTest, AServerThatWasAwayGetsTheChangesAndCanReplaceAnyOther) {
  Connect(2);
  WriteAll();
  for (std::size_t away = 0; away < kServers; ++away) {
    StopServer(away);
    AwaitDebt();
    WriteAll();
    ExpectAll();
    StartServer(away);
    AwaitNoDebt();
    ExpectAll();
  }
  EXPECT_EQ(cluster_->Placement().lost, 0u);
}

TEST_F(RepairTest, StoresThatAreLostOneAfterTheOtherCostNoPage) {
  Connect(2);
  WriteAll();
  for (std::size_t lost = 0; lost < kServers; ++lost) {
    Wipe(lost);
    StartServer(lost);
    ASSERT_TRUE(Eventually([&] { return cluster_->Servers()[lost].connected(); }));
    AwaitNoDebt();
    ExpectAll();
  }
  EXPECT_EQ(cluster_->Placement().lost, 0u);
}

// Of a file of the store, which serves the other pages.
TEST_F(RepairTest, APageOnADamagedDiskComesFromTheOtherReplicaAndIsRepaired) {
  Connect(2, 600'000ms, /*outage_wait=*/2 * kHangGuard);  // it misses nothing
  WriteAll();
  constexpr tier::SlotIndex kSlot = 7;
  const std::size_t server = IndexOf(cluster_->ReplicasOf(kSlot)[0].address);
  Damage(server, kSlot);
  ExpectAll();
  const std::uint64_t corrupt = StatOf(server, "gets_corrupt");
  ASSERT_GT(corrupt, 0u);
  ASSERT_TRUE(Eventually([&] { return cluster_->Placement().repaired_objects == corrupt; }));
  ExpectAll();
  EXPECT_EQ(StatOf(server, "gets_corrupt"), corrupt) << "no read meets the damage again";
  EXPECT_EQ(cluster_->Placement().failed_repairs, 0u);
}

TEST_F(RepairTest, DamageThatAScrubFindsIsRepairedWithoutARead) {
  Connect(2, 600'000ms, /*outage_wait=*/2 * kHangGuard);  // it misses nothing
  WriteAll();
  const auto replicas = cluster_->ReplicasOf(0);
  const std::size_t damaged = IndexOf(replicas[0].address);
  Damage(damaged, 7);
  const std::uint64_t records = ScrubUntilCompared(damaged);
  ASSERT_GT(records, 0u);
  EXPECT_EQ(StatOf(damaged, "scrub_repaired_objects"), records);
  EXPECT_EQ(cluster_->Placement().repaired_objects, records);
  EXPECT_EQ(cluster_->Placement().missing_pages, 0u);
  StopServer(IndexOf(replicas[1].address));
  TestFetch fetch;
  for (tier::SlotIndex page = 0; page < kPagesAShard; ++page) fetch.Add(page);
  Get(*cluster_, fetch);
  ASSERT_TRUE(fetch.done.Wait());
  for (std::size_t i = 0; i < fetch.count; ++i) EXPECT_TRUE(fetch.Holds(i, version_of_[0])) << i;
  EXPECT_EQ(StatOf(damaged, "gets_corrupt") + StatOf(damaged, "gets_not_found"), 0u);
}

TEST_F(RepairTest, WithOneReplicaDamageThatAScrubFindsIsCounted) {
  Connect(1, 600'000ms, /*outage_wait=*/2 * kHangGuard);
  WriteAll();
  const std::size_t damaged = IndexOf(cluster_->ReplicasOf(0)[0].address);
  Damage(damaged, 7);
  const std::uint64_t records = ScrubUntilCompared(damaged);
  ASSERT_GT(records, 0u);
  EXPECT_EQ(cluster_->Placement().missing_pages, records);
  EXPECT_EQ(cluster_->Placement().repaired_objects, 0u);
  EXPECT_EQ(GetOne(*cluster_, 7), tier::GetResult::kNotFound);
}

TEST_F(RepairTest, AServerThatStaysAwayIsReplaced) {
  Connect(2, 300ms);
  WriteAll();
  StopServer(0);
  AwaitDebt();
  AwaitNoDebt();
  EXPECT_EQ(ShardsOn(1), kShards);
  EXPECT_EQ(ShardsOn(2), kShards);
  ExpectAll();
  StopServer(1);
  ExpectAll();
}

// One page of the first shard is written while a server is away, then the store of the other
// replica is lost: that page is missing, and nothing else.
TEST_F(RepairTest, OnlyWhatAServerMissedIsLostWithTheStoreOfTheOtherReplica) {
  Connect(2);
  WriteAll();
  for (const bool written : {false, true}) {
    const auto replicas = cluster_->ReplicasOf(0);
    const std::size_t away = IndexOf(replicas[0].address);
    const std::size_t lost = IndexOf(replicas[1].address);
    StopServer(away);
    AwaitDebt();
    if (written) {
      ASSERT_EQ(PutOne(*cluster_, 0, ++version_), PutResult::kAcked);
      objects_.Want(0, version_);
    }
    Wipe(lost);
    StartServer(lost);
    ASSERT_TRUE(Eventually([&] { return cluster_->Servers()[lost].connected(); }));
    StartServer(away);
    AwaitNoDebt();
    EXPECT_EQ(cluster_->Placement().lost, written ? 1u : 0u);
    EXPECT_EQ(cluster_->Placement().missing_pages > 0, written);
    if (!written) ExpectAll();
  }
  EXPECT_TRUE(Holds(*cluster_, 1, version_of_[0]));
}

TEST_F(RepairTest, WithThreeReplicasTwoStoresMayBeLost) {
  Connect(3);
  WriteAll();
  Wipe(0);
  StartServer(0);
  ASSERT_TRUE(Eventually([&] { return cluster_->Servers()[0].connected(); }));
  AwaitNoDebt();
  Wipe(1);
  Wipe(2);
  ExpectAll();
}

TEST_F(RepairTest, WithOneReplicaALostStoreIsCountedAndItsShardsStartAgain) {
  Connect(1);
  WriteAll();
  const std::uint32_t shards = ShardsOn(0);
  Wipe(0);
  StartServer(0);
  ASSERT_TRUE(Eventually([&] { return cluster_->Servers()[0].lost_shards == shards; }));
  EXPECT_EQ(cluster_->Placement().lost, shards);
  WriteAll();
  ExpectAll();
}

class DrainTest : public RepairTest, public ::testing::WithParamInterface<std::size_t> {};

TEST_P(DrainTest, AServerThatIsDrainedEndsWithoutObjectsAndNoPageIsLost) {
  Connect(GetParam());
  WriteAll();
  std::size_t drained = 0;  // with most shards: by chance a server has none
  for (std::size_t i = 1; i < kServers; ++i) {
    if (ShardsOn(i) > ShardsOn(drained)) drained = i;
  }
  ASSERT_TRUE(servers_[drained]->SetDraining(true).ok());
  while (ShardsOn(drained) > 0) WriteAll();
  ASSERT_TRUE(Eventually([&] { return servers_[drained]->Volumes().at(0).pages == 0; }));
  AwaitNoDebt();
  StopServer(drained);
  ExpectAll();
  EXPECT_EQ(cluster_->Placement().lost, 0u);
}

INSTANTIATE_TEST_SUITE_P(Replicas, DrainTest, ::testing::Values(1, 2));

TEST_F(RepairTest, PagesWrittenDuringACopyAreNotLost) {
  Connect(2);
  for (int round = 0; round < 3; ++round) {
    WriteAll();
    Wipe(0);
    StartServer(0);
    while (cluster_->Servers()[0].connected() == false) WriteAll();
    for (int i = 0; i < 5; ++i) WriteAll();
    AwaitNoDebt();
    StopServer(1);
    ExpectAll();
    StartServer(1);
    AwaitNoDebt();
  }
}

}  // namespace
}  // namespace farswap::remote
