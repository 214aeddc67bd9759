// Cluster against the real page server over RocksDB, whose pages outlive it.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "remote/cluster.h"
#include "remote_borrowers.h"
#include "store/page_server.h"

namespace farswap::remote {
namespace {

using std::chrono_literals::operator""ms;
using tier::GetResult;
using tier::kShardSlots;
using tier::PutResult;

class RemotePageServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "farswap-remote-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    StartServer(std::uint64_t{64} << 20);
  }

  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(directory_);
  }

  void StartServer(std::uint64_t capacity_bytes) {
    auto created = store::PageServer::Create({.listen = "127.0.0.1:" + std::to_string(port_),
                                              .path = directory_ + "/pages",
                                              .capacity_bytes = capacity_bytes,
                                              .block_cache_bytes = 8 << 20,
                                              .leases = {.owner_lease = 500ms}});
    ASSERT_TRUE(created.ok()) << created.error().message;
    server_ = std::move(created.value());
    port_ = server_->port();
  }

  void StopServer() { server_.reset(); }

  std::unique_ptr<Cluster> Connect(std::byte incarnation = std::byte{1}, bool take_over = false) {
    ClusterConfig config = TestConfig({"127.0.0.1:" + std::to_string(port_)});
    config.incarnation[0] = incarnation;
    config.take_over = take_over;
    auto cluster = NewCluster(config);
    EXPECT_TRUE(Connected(*cluster));
    return cluster;
  }

  static void Fill(Cluster& cluster, tier::SlotIndex slots, tier::Version version) {
    for (tier::SlotIndex first = 0; first < slots; first += TestBatch::kObjectsMax) {
      TestBatch batch;
      for (tier::SlotIndex i = 0; i < TestBatch::kObjectsMax; ++i) batch.Add(first + i, version);
      Put(cluster, batch);
      ASSERT_TRUE(batch.done.Wait());
      for (const PutResult result : batch.results) ASSERT_EQ(result, PutResult::kAcked);
    }
  }

  static std::vector<std::unique_ptr<TestFetch>> FetchAll(Cluster& cluster, tier::SlotIndex slots) {
    std::vector<std::unique_ptr<TestFetch>> fetches;
    for (tier::SlotIndex first = 0; first < slots; first += TestFetch::kKeysMax) {
      fetches.push_back(std::make_unique<TestFetch>());
      for (tier::SlotIndex i = 0; i < TestFetch::kKeysMax; ++i) fetches.back()->Add(first + i);
      Get(cluster, *fetches.back());
    }
    return fetches;
  }

  std::string directory_;
  int port_ = 0;
  std::unique_ptr<store::PageServer> server_;
};

TEST_F(RemotePageServerTest, PagesOutliveTheServer) {
  const auto cluster = Connect();
  Fill(*cluster, 8192, 3);
  StopServer();
  const auto fetches = FetchAll(*cluster, 8192);
  StartServer(std::uint64_t{64} << 20);
  for (const auto& fetch : fetches) {
    ASSERT_TRUE(fetch->done.Wait());
    for (std::size_t i = 0; i < fetch->count; ++i) ASSERT_TRUE(fetch->Holds(i, 3));
  }
  // The pages may be there before the session reports its new connection.
  EXPECT_TRUE(Eventually([&] { return cluster->Servers()[0].reconnects == 1; }));
  const Cluster::ServerInfo info = cluster->Servers()[0];
  EXPECT_EQ(info.shards, 2u);
  EXPECT_EQ(info.capacity_bytes, std::uint64_t{64} << 20);
  EXPECT_GT(info.used_bytes, 0u);
}

TEST_F(RemotePageServerTest, OlderVersionIsSupersededAndDiscardIsVersioned) {
  const auto cluster = Connect();
  ASSERT_EQ(PutOne(*cluster, 1, 5), PutResult::kAcked);
  EXPECT_EQ(PutOne(*cluster, 1, 4), PutResult::kSuperseded);
  ASSERT_EQ(PutOne(*cluster, 2, 5), PutResult::kAcked);
  Discard(*cluster, {{.key = 1, .version = 4}, {.key = 2, .version = 5}});
  EXPECT_TRUE(Eventually([&] {
    TestFetch fetch;
    fetch.Add(1).Add(2);
    Get(*cluster, fetch);
    EXPECT_TRUE(fetch.done.Wait());
    EXPECT_TRUE(fetch.Holds(0, 5));
    return fetch.answered[1].result == GetResult::kNotFound;
  }));
}

TEST_F(RemotePageServerTest, NewIncarnationFencesTheOldOneAndSeesNoneOfItsPages) {
  const auto first = Connect();
  ASSERT_EQ(PutOne(*first, 1, 5), PutResult::kAcked);
  const auto second = Connect(std::byte{2}, /*take_over=*/true);
  EXPECT_EQ(PutOne(*first, 1, 6), PutResult::kUnavailable);
  EXPECT_TRUE(Eventually([&] { return first->Servers()[0].state == SessionState::kFenced; }));
  ASSERT_EQ(PutOne(*second, 2, 1), PutResult::kAcked);
  EXPECT_EQ(GetOne(*second, 1), GetResult::kNotFound);
}

TEST_F(RemotePageServerTest, FullServerReportsIt) {
  StopServer();
  StartServer(std::uint64_t{1} << 20);
  const auto cluster = Connect();
  PutResult result = PutResult::kAcked;
  for (tier::SlotIndex first = 0; first < 16 * 256 && result == PutResult::kAcked; first += 256) {
    TestBatch batch;
    for (tier::SlotIndex i = 0; i < TestBatch::kObjectsMax; ++i) batch.Add(first + i, 1);
    Put(*cluster, batch);
    ASSERT_TRUE(batch.done.Wait());
    result = batch.results[255];
  }
  EXPECT_EQ(result, PutResult::kServerFull);
  EXPECT_FALSE(cluster->Writable());
}

TEST_F(RemotePageServerTest, BundlesAreKeptApartFromPagesAndFetchedManyAtATime) {
  const auto cluster = Connect();
  const std::uint64_t version = std::uint64_t{7} << 40;
  for (tier::SlotIndex bundle = 0; bundle < TestFetch::kKeysMax; bundle += 16) {
    TestBatch batch;  // as much as the tier's memory for a batch holds
    for (tier::SlotIndex i = bundle; i < bundle + 16; ++i) {
      batch.Add(tier::BundleKeyOf(i * tier::kBundleSlots), version);
    }
    Put(*cluster, batch);
    ASSERT_TRUE(batch.done.Wait());
    for (std::size_t i = 0; i < batch.count; ++i) ASSERT_EQ(batch.results[i], PutResult::kAcked);
  }
  EXPECT_EQ(cluster->Servers()[0].shards, 1u) << "all of the shard of their slots";
  EXPECT_GE(cluster->Servers()[0].used_bytes, TestFetch::kKeysMax * tier::kBundleBytesMax);
  ASSERT_EQ(PutOne(*cluster, 1, 1), PutResult::kAcked);

  TestFetch fetch;
  for (tier::SlotIndex bundle = 0; bundle < TestFetch::kKeysMax; ++bundle) {
    fetch.Add(tier::BundleKeyOf(bundle * tier::kBundleSlots));
  }
  Get(*cluster, fetch);
  ASSERT_TRUE(fetch.done.Wait());
  for (std::size_t i = 0; i < fetch.count; ++i) ASSERT_TRUE(fetch.Holds(i, version)) << i;

  const tier::ObjectKey bundle = tier::BundleKeyOf(16);
  EXPECT_EQ(PutOne(*cluster, bundle, version - 1), PutResult::kSuperseded);
  Discard(*cluster, {{.key = bundle, .version = version}});
  EXPECT_TRUE(Eventually([&] {
    TestFetch again;
    again.Add(bundle).Add(1);
    Get(*cluster, again);
    EXPECT_TRUE(again.done.Wait());
    EXPECT_TRUE(again.Holds(1, 1));
    return again.answered[0].result == GetResult::kNotFound;
  }));
}

TEST_F(RemotePageServerTest, FetchesPassABacklogOfStores) {
  const auto cluster = Connect();
  Fill(*cluster, 1024, 1);
  std::vector<std::unique_ptr<TestBatch>> batches;
  for (tier::SlotIndex first = 0; first < 64 * 256; first += 256) {
    batches.push_back(std::make_unique<TestBatch>());
    for (tier::SlotIndex i = 0; i < 256; ++i) batches.back()->Add(first + i, 2);
    Put(*cluster, *batches.back());
  }
  const auto fetches = FetchAll(*cluster, 1024);
  for (const auto& fetch : fetches) {
    ASSERT_TRUE(fetch->done.Wait());
    for (std::size_t i = 0; i < fetch->count; ++i) {
      EXPECT_TRUE(fetch->Holds(i, 1) || fetch->Holds(i, 2));
    }
  }
  for (const auto& batch : batches) ASSERT_TRUE(batch->done.Wait());
}

}  // namespace
}  // namespace farswap::remote
