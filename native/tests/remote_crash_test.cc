// A host that is killed at any instruction, and its successor on the same memory, with real page
// servers, of which one comes and goes. Their leases never end.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "hang_guard.h"
#include "killed_worker.h"
#include "remote_crash_world.h"
#include "sanitized.h"
#include "store/page_server.h"
#include "surviving.h"
#include "tier/state.h"

namespace farswap::remote {
namespace {

class RemoteCrash : public ::testing::Test {
 protected:
  void SetUp() override {
    state_ = OfSurvivingKind(
        [](MemoryKind kind) { return tier::State::Create(kCrashSlots, kCrashPoolBytes, kind); });
    world_ = OfSurvivingKind(
        [](MemoryKind kind) { return Memory::Create(sizeof(CrashWorld), "test", kind); });
    if (!state_ || !world_) GTEST_SKIP() << "no memory outlives a process here";
    worker_.Inherit(state_->memory());
    worker_.Inherit(*world_);
    std::string pattern = ::testing::TempDir() + "farswap-crash-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    for (std::size_t i = 0; i < servers_.size(); ++i) StartServer(i);
  }
  void TearDown() override {
    for (auto& server : servers_) server.reset();
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
    if (world_) world_->Remove();
    if (state_) state_->memory().Remove();
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
  void Spawn() {
    std::vector<std::string> arguments{servers_[0] ? "1" : "0"};
    for (const int port : ports_) arguments.push_back("127.0.0.1:" + std::to_string(port));
    worker_.Spawn(arguments);
  }

  std::unique_ptr<tier::State> state_;
  std::unique_ptr<Memory> world_;
  std::string directory_;
  std::array<int, 3> ports_{};
  std::array<std::unique_ptr<store::PageServer>, 3> servers_;
  KilledWorker worker_{REMOTE_CRASH_WORKER};
};

TEST_F(RemoteCrash, LosesNoPageHoweverOftenItIsKilled) {
  std::mt19937_64 random(9);
  std::vector<std::uint64_t> fetches_us;
  const int kills = kSanitized ? 6 : 40;
  for (int i = 0; i < kills && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    Spawn();
    const bool early = i % 4 == 3;  // while it recovers or verifies
    if (!early) worker_.WaitUntilVerified();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 50000));
    worker_.Kill();
    const std::uint64_t took = reinterpret_cast<CrashWorld*>(world_->data())->first_fetch_us;
    if (!early && took > 0) fetches_us.push_back(took);
    // Every shard has a replica elsewhere then.
    if (!early && servers_[0] && i % 4 == 1) {
      servers_[0].reset();
    } else if (!servers_[0] && i % 4 == 3) {
      StartServer(0);
    }
  }
  if (!servers_[0]) StartServer(0);
  Spawn();
  worker_.WaitUntilVerified();
  worker_.Kill();
  if (fetches_us.empty()) {
    EXPECT_TRUE(kSanitized) << "no page was remote";  // a few kills may not suffice
    return;
  }
  std::ranges::sort(fetches_us);
  std::printf("a successor's first fetched page, of %zu: p50 %.1f ms, max %.1f ms\n",
              fetches_us.size(), static_cast<double>(fetches_us[fetches_us.size() / 2]) / 1000,
              static_cast<double>(fetches_us.back()) / 1000);
}

}  // namespace
}  // namespace farswap::remote
