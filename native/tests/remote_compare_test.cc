// Replicas compared with the slot table of a real tier, on real page servers.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "awaited_io.h"
#include "farswap/v1/page_store.grpc.pb.h"
#include "remote/cluster.h"
#include "remote_borrowers.h"
#include "remote_fake_store.h"
#include "rpc/channel.h"
#include "stamped_page.h"
#include "store/page_server.h"
#include "tier/tier.h"

namespace farswap::remote {
namespace {

using std::chrono_literals::operator""ms;
using tier::SlotIndex;

class CompareTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kServers = 3;
  static constexpr SlotIndex kSlots = 64;

  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "farswap-compare-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    for (std::size_t i = 0; i < kServers; ++i) StartServer(i);
  }
  void TearDown() override {
    if (cluster_) cluster_->Stop();
    tier_.reset();
    cluster_.reset();
    for (auto& server : servers_) server.reset();
    std::filesystem::remove_all(directory_);
  }

  void StartServer(std::size_t i) {
    auto created = store::PageServer::Create({.listen = "127.0.0.1:" + std::to_string(ports_[i]),
                                              .path = directory_ + "/" + std::to_string(i),
                                              .capacity_bytes = std::uint64_t{64} << 20,
                                              .block_cache_bytes = 8 << 20,
                                              .leases = {.owner_lease = 500ms}});
    ASSERT_TRUE(created.ok()) << created.error().message;
    servers_[i] = std::move(created.value());
    ports_[i] = servers_[i]->port();
  }
  void StopServer(std::size_t i) {
    servers_[i].reset();
    ASSERT_TRUE(Eventually([&] { return cluster_->Placement().debt > 0; }));
  }
  std::string AddressOf(std::size_t i) const { return "127.0.0.1:" + std::to_string(ports_[i]); }

  void Connect(std::size_t replicas) {
    ClusterConfig config = TestConfig({AddressOf(0), AddressOf(1), AddressOf(2)});
    config.slots = tier::kShardSlots;
    config.replicas = replicas;
    config.outage_wait = 200ms;
    config.repair_after = 600'000ms;
    cluster_ = NewCluster(config);
    for (std::size_t i = 0; i < kServers; ++i) ASSERT_TRUE(Connected(*cluster_, i));
    auto made = tier::Tier::Create(
        {.slots = tier::kShardSlots, .pool_bytes_max = std::uint64_t{4} << 20}, cluster_.get());
    ASSERT_TRUE(made.ok()) << made.error().message;
    tier_ = std::move(made.value());
    cluster_->CompareWith(tier_->stored_objects());
  }

  static void Fill(SlotIndex slot, std::uint32_t generation, std::byte* page) {
    tier::FillNumbered(tier::PageKind::kCompressible, std::uint64_t{slot} << 32 | generation, page);
  }
  void Store(SlotIndex slot, std::uint32_t generation) {
    std::array<std::byte, tier::kPageBytes> page;
    Fill(slot, generation, page.data());
    ASSERT_EQ(StoreWait(*tier_, slot, page.data()), tier::IoStatus::kOk);
  }
  void ExpectPage(SlotIndex slot, std::uint32_t generation) {
    std::array<std::byte, tier::kPageBytes> expected;
    Fill(slot, generation, expected.data());
    std::array<std::byte, tier::kPageBytes> page{};
    EXPECT_EQ(LoadWait(*tier_, slot, page.data()), tier::IoStatus::kOk) << "slot " << slot;
    EXPECT_EQ(page, expected) << "slot " << slot;
  }
  // Until servers have every page.
  void WriteBackAll() {
    ASSERT_TRUE(Eventually([&] {
      tier_->StartManualWriteback({.bytes = tier::kShardSlots * tier::kPageBytes});
      const auto pages = tier_->Stats().pages;
      return pages.local == 0 && pages.writing == 0;
    }));
  }
  void AwaitNoDebt() {
    ASSERT_TRUE(Eventually([&] {
      const PlacementInfo placement = cluster_->Placement();
      return placement.debt == 0 && placement.copies == 0;
    }));
  }
  std::uint64_t ObjectsOn(std::size_t i) { return servers_[i]->Volumes().at(0).pages; }
  std::vector<std::size_t> Replicas() {
    std::vector<std::size_t> found;
    for (const auto& replica : cluster_->ReplicasOf(0)) {
      for (std::size_t i = 0; i < kServers; ++i) {
        if (AddressOf(i) == replica.address) found.push_back(i);
      }
    }
    return found;
  }
  // As a disk would, without the host's knowledge.
  void Lose(std::size_t server, SlotIndex slot) {
    const auto stub = v1::PageStore::NewStub(rpc::NewChannel(AddressOf(server), 3000ms));
    v1::DescribeResponse described;
    {
      grpc::ClientContext context;
      ASSERT_TRUE(stub->Describe(&context, v1::DescribeRequest{}, &described).ok());
    }
    v1::DiscardRequest request;
    request.set_volume_id(described.volumes(0).volume_id());
    request.set_epoch(described.volumes(0).epoch());
    v1::DiscardRequest::Item* const item = request.add_items();
    item->set_key(slot);
    item->set_version(UINT64_MAX);
    v1::DiscardResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(stub->Discard(&context, request, &response).ok());
    ASSERT_EQ(response.status(), v1::CALL_STATUS_OK);
  }

  std::string directory_;
  std::array<int, kServers> ports_{};
  std::array<std::unique_ptr<store::PageServer>, kServers> servers_;
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<tier::Tier> tier_;
};

TEST_F(CompareTest, AReplicaThatMissedDiscardsIsRidOfItsGarbageAfterItJoins) {
  for (const bool bundles : {false, true}) {
    TearDown();
    SetUp();
    Connect(2);
    ASSERT_TRUE(tier_->SetPacking(bundles).ok());
    for (SlotIndex slot = 0; slot < kSlots; ++slot) Store(slot, 1);
    WriteBackAll();
    const auto replicas = Replicas();
    const std::size_t stays = replicas[0];
    const std::size_t away = replicas[1];
    StopServer(away);
    tier_->Invalidate(0, kSlots / 2);
    for (SlotIndex slot = kSlots / 2; slot < kSlots; slot += 2) Store(slot, 2);
    WriteBackAll();
    tier_->Invalidate(kSlots / 2, 4);
    std::vector<tier::StoredObjects::Wanted> wanted;
    tier_->stored_objects()->ListWanted(0, &wanted);
    ASSERT_TRUE(Eventually([&] { return ObjectsOn(stays) == wanted.size(); }));
    StartServer(away);
    AwaitNoDebt();
    ASSERT_TRUE(Eventually([&] { return ObjectsOn(away) == wanted.size(); }))
        << ObjectsOn(away) << " objects instead of " << wanted.size();
    EXPECT_EQ(ObjectsOn(stays), wanted.size());
    EXPECT_EQ(cluster_->Placement().missing_pages, 0u);
    StopServer(stays);
    for (SlotIndex slot = kSlots / 2 + 4; slot < kSlots; ++slot) {
      ExpectPage(slot, slot % 2 == 0 ? 2 : 1);
    }
  }
}

TEST_F(CompareTest, WhatTheSourceLostComesFromAnotherReplica) {
  Connect(3);
  Store(0, 1);
  WriteBackAll();
  const auto replicas = Replicas();
  const std::size_t away = replicas[2];
  StopServer(away);
  for (SlotIndex slot = 0; slot < kSlots; ++slot) Store(slot, 2);
  WriteBackAll();
  Lose(replicas[0], 5);
  Lose(replicas[1], 6);
  StartServer(away);
  AwaitNoDebt();
  EXPECT_EQ(ObjectsOn(away), kSlots);
  EXPECT_EQ(cluster_->Placement().missing_pages, 0u);
}

TEST_F(CompareTest, WhatNoReplicaHasIsCountedAndTheOthersAreCopied) {
  Connect(2);
  Store(0, 1);
  WriteBackAll();
  const auto replicas = Replicas();
  StopServer(replicas[1]);
  for (SlotIndex slot = 0; slot < kSlots; ++slot) Store(slot, 2);
  WriteBackAll();
  Lose(replicas[0], 5);
  StartServer(replicas[1]);
  AwaitNoDebt();
  EXPECT_EQ(ObjectsOn(replicas[1]), kSlots - 1);
  EXPECT_EQ(cluster_->Placement().missing_pages, 1u);
}

// With one replica nothing is copied; its pages are counted.
TEST(CompareSingle, PagesThatAnUncleanStoreLostAreCounted) {
  FakeStore store;
  TestObjects objects;
  const auto cluster = NewCluster(TestConfig({store.address()}), &objects);
  ASSERT_TRUE(Connected(*cluster));
  for (SlotIndex slot = 0; slot < 8; ++slot) {
    ASSERT_EQ(PutOne(*cluster, slot, 1), tier::PutResult::kAcked);
    objects.Want(slot, 1);
  }
  store.Stop();
  store.Lose(3);
  store.Lose(4);
  store.Tell([](FakeStore::Script* script) { script->unclean = true; });
  store.Start();
  ASSERT_TRUE(Eventually([&] { return cluster->Placement().missing_pages == 2; }));
  EXPECT_TRUE(Holds(*cluster, 0, 1));
}

}  // namespace
}  // namespace farswap::remote
