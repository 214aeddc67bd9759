// A host whose process has died, and its successor on the same state, with real page servers.
//
// A death is a copy of the state: the successor gets that. The process that died lives on in the
// test, so that its late calls reach the servers, whose leases never end.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "awaited_io.h"
#include "remote/cluster.h"
#include "remote_borrowers.h"
#include "stamped_page.h"
#include "store/page_server.h"
#include "tier/tier.h"

namespace farswap::remote {
namespace {

using std::chrono_literals::operator""ms;
using placement::ReplicaSet;
using placement::ReplicaState;
using tier::SlotIndex;

constexpr std::size_t kServers = 3;
constexpr std::size_t kShards = 4;
constexpr std::uint64_t kSlots = kShards * tier::kShardSlots;
constexpr std::uint64_t kPoolBytes = tier::Pool::kPoolBytesMin;
constexpr SlotIndex kPages = 64;  // of each shard

struct Host {
  std::shared_ptr<tier::State> state;
  std::unique_ptr<Cluster> cluster;
  std::unique_ptr<tier::Tier> tier;

  ~Host() { Stop(); }
  Host() = default;
  Host(Host&&) = default;
  Host& operator=(Host&& other) {
    Stop();
    state = std::move(other.state);
    tier = std::move(other.tier);
    cluster = std::move(other.cluster);
    return *this;
  }
  void Stop() {
    if (cluster) cluster->Stop();
    tier.reset();
  }
  std::vector<std::uint64_t> Words() const {
    return {state->shard_words().begin(), state->shard_words().end()};
  }
  ReplicaSet SetOf(std::size_t shard) const { return ReplicaSet(state->shard_words()[shard]); }
};

class SuccessorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "farswap-successor-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    for (std::size_t i = 0; i < kServers; ++i) StartServer(i);
  }
  void TearDown() override {
    for (auto& server : servers_) server.reset();
    std::filesystem::remove_all(directory_);
  }

  void StartServer(std::size_t i) {
    auto created = store::PageServer::Create({.listen = "127.0.0.1:" + std::to_string(ports_[i]),
                                              .path = directory_ + "/" + std::to_string(i),
                                              .capacity_bytes = std::uint64_t{64} << 20,
                                              .block_cache_bytes = 8 << 20,
                                              .leases = {.owner_lease = 4 * kHangGuard}});
    ASSERT_TRUE(created.ok()) << created.error().message;
    servers_[i] = std::move(created.value());
    ports_[i] = servers_[i]->port();
  }
  std::string AddressOf(std::size_t i) const { return "127.0.0.1:" + std::to_string(ports_[i]); }
  std::vector<std::string> AllServers() const { return {AddressOf(0), AddressOf(1), AddressOf(2)}; }

  // By default no server is away however late it answers.
  Host Start(std::shared_ptr<tier::State> state, std::vector<std::string> servers,
             std::size_t replicas, std::chrono::milliseconds outage_wait = 2 * kHangGuard) {
    ClusterConfig config = TestConfig(std::move(servers));
    config.replicas = replicas;
    config.outage_wait = outage_wait;
    Host host;
    host.state = state;
    auto cluster = Cluster::Create(config, state);
    EXPECT_TRUE(cluster.ok()) << cluster.error().message;
    host.cluster = std::move(cluster.value());
    auto made = tier::Tier::Create({.slots = kSlots, .pool_bytes_max = kPoolBytes},
                                   host.cluster.get(), state);
    EXPECT_TRUE(made.ok()) << made.error().message;
    host.tier = std::move(made.value());
    host.cluster->CompareWith(host.tier->stored_objects());
    return host;
  }
  // Of an empty device, connected with all servers.
  Host StartFirst(std::size_t replicas, std::chrono::milliseconds outage_wait = 2 * kHangGuard) {
    auto state = tier::State::Create(kSlots, kPoolBytes);
    EXPECT_TRUE(state.ok());
    Host host = Start(std::move(state.value()), AllServers(), replicas, outage_wait);
    for (std::size_t i = 0; i < kServers; ++i) EXPECT_TRUE(Connected(*host.cluster, i));
    return host;
  }
  // What a successor finds.
  static std::shared_ptr<tier::State> Death(const Host& host) {
    host.tier->StopWriteback();
    static_cast<void>(host.cluster->Placement());  // waits for the planner
    const Memory& from = host.state->memory();
    auto memory = Memory::Create(from.bytes(), "copy");
    EXPECT_TRUE(memory.ok());
    std::memcpy(memory.value()->data(), from.data(), from.bytes());
    auto adopted = tier::State::Adopt(std::move(memory.value()), kSlots, kPoolBytes);
    EXPECT_TRUE(adopted.ok()) << adopted.error().message;
    adopted.value()->TakeOver();
    return std::move(adopted.value());
  }

  static SlotIndex SlotOf(std::size_t shard, SlotIndex page) {
    return static_cast<SlotIndex>(shard * tier::kShardSlots + page);
  }
  static tier::Page PageOf(SlotIndex slot, std::uint32_t generation) {
    tier::Page page;
    tier::FillNumbered(tier::PageKind::kCompressible, std::uint64_t{slot} << 32 | generation,
                       page.data());
    return page;
  }
  static void Store(const Host& host, SlotIndex slot, std::uint32_t generation) {
    ASSERT_EQ(StoreWait(*host.tier, slot, PageOf(slot, generation).data()), tier::IoStatus::kOk);
  }
  static void StoreAll(const Host& host, std::uint32_t generation) {
    for (std::size_t shard = 0; shard < kShards; ++shard) {
      for (SlotIndex page = 0; page < kPages; ++page) Store(host, SlotOf(shard, page), generation);
    }
  }
  // Until servers have every page.
  static void WriteBackAll(const Host& host) {
    ASSERT_TRUE(Eventually([&] {
      host.tier->StartManualWriteback({.bytes = kSlots * tier::kPageBytes});
      const auto pages = host.tier->Stats().pages;
      return pages.local == 0 && pages.writing == 0;
    }));
  }
  static void ExpectPage(const Host& host, SlotIndex slot, std::uint32_t generation) {
    tier::Page page{};
    EXPECT_EQ(LoadWait(*host.tier, slot, page.data()), tier::IoStatus::kOk) << "slot " << slot;
    EXPECT_EQ(page, PageOf(slot, generation)) << "slot " << slot;
  }
  static void ExpectAll(const Host& host, std::uint32_t generation) {
    for (std::size_t shard = 0; shard < kShards; ++shard) {
      for (SlotIndex page = 0; page < kPages; ++page) {
        ExpectPage(host, SlotOf(shard, page), generation);
      }
    }
  }
  static bool AwaitNoDebt(const Host& host) {
    return Eventually([&] {
      const PlacementInfo placement = host.cluster->Placement();
      return placement.debt == 0 && placement.copies == 0;
    });
  }
  std::uint64_t ObjectsOn(std::size_t i) const { return servers_[i]->Volumes().at(0).pages; }

  std::string directory_;
  std::array<int, kServers> ports_{};
  std::array<std::unique_ptr<store::PageServer>, kServers> servers_;
};

TEST_F(SuccessorTest, FindsAllPagesOnServersThatOnlyTheStateNamesAndNothingIsCopied) {
  for (const std::size_t replicas : {1u, 2u, 3u}) {
    SCOPED_TRACE(replicas);
    TearDown();
    ports_ = {};
    SetUp();
    const Host first = StartFirst(replicas);
    StoreAll(first, 1);
    WriteBackAll(first);
    for (SlotIndex page = 0; page < 8; ++page) Store(first, SlotOf(1, page), 2);
    const std::vector<std::uint64_t> words = first.Words();

    const Host second = Start(Death(first), {}, replicas);
    for (std::size_t shard = 0; shard < kShards; ++shard) {
      for (SlotIndex page = 0; page < kPages; ++page) {
        ExpectPage(second, SlotOf(shard, page), shard == 1 && page < 8 ? 2 : 1);
      }
    }
    EXPECT_EQ(second.Words(), words);
    const PlacementInfo placement = second.cluster->Placement();
    EXPECT_EQ(placement.debt, 0u);
    EXPECT_EQ(placement.crowded, 0u);
    std::uint32_t here = 0;
    for (const auto& server : second.cluster->Servers()) here += server.shards;
    EXPECT_EQ(here, kShards * replicas);
    // It writes as well, also after a death of its own.
    StoreAll(second, 3);
    WriteBackAll(second);
    const Host third = Start(Death(second), {}, replicas);
    ExpectAll(third, 3);
  }
}

TEST_F(SuccessorTest, TakesTheVolumesFromTheDeadOneWhoseLateCallsAreRefused) {
  const Host first = StartFirst(2);
  StoreAll(first, 1);
  WriteBackAll(first);
  const Host second = Start(Death(first), AllServers(), 2);
  ExpectAll(second, 1);
  for (std::size_t shard = 0; shard < kShards; ++shard) {
    const SlotIndex slot = SlotOf(shard, kPages);
    EXPECT_NE(PutOne(*first.cluster, slot, 1000), tier::PutResult::kAcked);
    Discard(*first.cluster, {{.key = SlotOf(shard, 0), .version = UINT64_MAX}});
    EXPECT_EQ(GetOne(*second.cluster, slot), tier::GetResult::kNotFound);
    ExpectPage(second, SlotOf(shard, 0), 1);
  }
  for (const auto& server : first.cluster->Servers()) {
    EXPECT_TRUE(server.shards == 0 || server.state == SessionState::kFenced);
  }
  for (const auto& server : second.cluster->Servers()) EXPECT_TRUE(server.connected());
}

TEST_F(SuccessorTest, ReadsFromTheOthersWhenAServerIsDownAndItMissesNothingItHas) {
  const Host first = StartFirst(2);
  StoreAll(first, 1);
  WriteBackAll(first);
  const std::uint64_t objects = ObjectsOn(0);
  servers_[0].reset();
  const Host second = Start(Death(first), AllServers(), 2, 200ms);
  ExpectAll(second, 1);
  ASSERT_TRUE(Eventually([&] { return second.cluster->Placement().debt > 0; }));
  ASSERT_TRUE(Eventually([&] { return !second.cluster->Placement().away.empty(); }));
  StartServer(0);
  ASSERT_TRUE(AwaitNoDebt(second));
  EXPECT_EQ(ObjectsOn(0), objects);
  // Each replica is where it was.
  for (std::size_t shard = 0; shard < kShards; ++shard) {
    for (const auto& replica : first.SetOf(shard).All()) {
      if (replica.state == ReplicaState::kNone) continue;
      EXPECT_EQ(second.SetOf(shard).StateOf(replica.member), ReplicaState::kCurrent);
    }
  }
  ExpectAll(second, 1);
}

// A copy had begun, and the replica has none of the pages.
TEST_F(SuccessorTest, AReplicaThatWasJoiningIsCurrentOnlyOnceItHasAllPages) {
  const Host first = StartFirst(1);
  StoreAll(first, 1);
  WriteBackAll(first);
  const auto state = Death(first);
  for (auto& word : state->shard_words()) {
    const ReplicaSet set{word};
    word = set.With(set.At(0).member == 0 ? 1 : 0, ReplicaState::kJoining).word();
  }
  for (auto& server : servers_) server.reset();
  const Host second = Start(state, AllServers(), 2);
  for (std::size_t shard = 0; shard < kShards; ++shard) {
    EXPECT_EQ(second.SetOf(shard).At(1).state, ReplicaState::kStale);
  }
  EXPECT_EQ(second.cluster->Placement().debt, kShards);
  for (std::size_t i = 0; i < kServers; ++i) StartServer(i);
  ASSERT_TRUE(AwaitNoDebt(second));
  std::uint64_t objects = 0;
  for (std::size_t i = 0; i < kServers; ++i) objects += ObjectsOn(i);
  EXPECT_EQ(objects, 2 * kShards * kPages);
  ExpectAll(second, 1);
}

// A server that is away has shards that it is to drop.
TEST_F(SuccessorTest, HasServersDropWhatTheDeadOneHadNotYetHadThemDrop) {
  const Host first = StartFirst(2, 200ms);
  StoreAll(first, 1);
  WriteBackAll(first);
  servers_[0].reset();
  ASSERT_TRUE(Eventually([&] { return first.cluster->Placement().debt > 0; }));
  ASSERT_TRUE(first.cluster->SetPlacement(1, std::nullopt).ok());
  const Host second = Start(Death(first), AllServers(), 1);
  StartServer(0);
  ASSERT_TRUE(
      Eventually([&] { return ObjectsOn(0) + ObjectsOn(1) + ObjectsOn(2) == kShards * kPages; }));
  ExpectAll(second, 1);
}

TEST_F(SuccessorTest, AShardOnAServerThatTheStateLacksIsDamage) {
  const Host first = StartFirst(1);
  StoreAll(first, 1);
  WriteBackAll(first);
  const auto state = Death(first);
  state->shard_words()[0] = ReplicaSet().With(99, ReplicaState::kCurrent).word();
  ClusterConfig config = TestConfig({});
  EXPECT_EQ(Cluster::Create(config, state).error().message,
            "the kept memory is damaged: a shard is on a server that is not in it");
}

}  // namespace
}  // namespace farswap::remote
