// remote_crash_worker KIND NUMBER KIND NUMBER WHOLE ADDRESS...: adopts the host whose state is in
// the first memory, with two replicas on these servers, verifies all pages, prints a line, then
// writes and reads until it is killed. WHOLE is 1 if all servers run: it prints the line once every
// shard has its replicas. Exit code 1, and what is wrong on standard error, when a page is.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "awaited_io.h"
#include "remote/cluster.h"
#include "remote_crash_world.h"
#include "surviving.h"
#include "tier/state.h"
#include "tier/tier.h"

namespace farswap::remote {
namespace {

using tier::IoStatus;
using tier::SlotIndex;
using tier::Stamp;

constexpr unsigned kThreads = 2;

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::_Exit(1);
}

class Worker {
 public:
  Worker(const std::shared_ptr<tier::State>& state, CrashWorld* world,
         std::vector<std::string> servers)
      : world_(*world), began_(std::chrono::steady_clock::now()) {
    ClusterConfig config;
    config.servers = std::move(servers);
    config.host_id = "crash";
    config.device = "swap0";
    config.replicas = 2;
    config.outage_wait = std::chrono::milliseconds(300);
    auto cluster = Cluster::Create(config, state);
    if (!cluster.ok()) Fail(cluster.error().message);
    cluster_ = std::move(cluster.value());
    auto made = tier::Tier::Create({.slots = kCrashSlots, .pool_bytes_max = kCrashPoolBytes},
                                   cluster_.get(), state);
    if (!made.ok()) Fail(made.error().message);
    tier_ = std::move(made.value());
    cluster_->CompareWith(tier_->stored_objects());
  }

  void Verify() {
    world_.first_fetch_us = 0;
    for (std::uint32_t page = 0; page < kCrashPages; ++page) {
      tier::WrittenSlot& written = world_.written[page];
      const Stamp answered = written.answered;
      const Stamp begun = written.begun;
      const bool is_answered = Has(page, answered);
      if (!is_answered && !Has(page, begun)) {
        const SlotIndex slot = CrashWorld::SlotOf(page);
        Fail("slot " + std::to_string(slot) + " has neither page " + std::to_string(answered) +
             " nor " + std::to_string(begun) + ", state " + tier_->Explain(slot).state + " " +
             tier_->Explain(slot).problem);
      }
      written.begun = written.answered = is_answered ? answered : begun;
      NoteFetch();
    }
  }
  bool Whole() const {
    const PlacementInfo placement = cluster_->Placement();
    return placement.debt == 0 && placement.copies == 0;
  }

  // Its share of the pages.
  [[noreturn]] void Work(unsigned thread) {
    std::mt19937_64 random(std::random_device{}());
    while (true) {
      const auto page =
          static_cast<std::uint32_t>(random() % (kCrashPages / kThreads)) * kThreads + thread;
      tier::WrittenSlot& written = world_.written[page];
      switch (random() % 8) {
        case 0:
          written.begun = 0;
          tier_->Invalidate(CrashWorld::SlotOf(page), 1);
          written.answered = 0;
          tier_->StartManualWriteback({.bytes = 64 * tier::kPageBytes});
          break;
        case 1:
        case 2:
        case 3:
          if (!Has(page, written.answered)) Fail("page " + std::to_string(page) + " is another");
          break;
        default:
          Store(page);
      }
    }
  }

 private:
  bool Has(std::uint32_t number, Stamp stamp) {
    tier::Page page;
    const SlotIndex slot = CrashWorld::SlotOf(number);
    if (tier::LoadWait(*tier_, slot, page.data()) != IoStatus::kOk) return false;
    tier::Page wanted{};
    if (stamp != 0) tier::FillStamped(slot, stamp, wanted.data());
    return page == wanted;
  }
  void Store(std::uint32_t number) {
    const Stamp stamp = ++stamps_[number] + started_at_;
    tier::Page page;
    tier::FillStamped(CrashWorld::SlotOf(number), stamp, page.data());
    tier::WrittenSlot& written = world_.written[number];
    written.begun = stamp;
    // A refused store empties the slot.
    const bool stored =
        tier::StoreWait(*tier_, CrashWorld::SlotOf(number), page.data()) == IoStatus::kOk;
    if (!stored) written.begun = 0;
    written.answered = stored ? stamp : 0;
  }
  void NoteFetch() {
    const auto fetched = static_cast<std::size_t>(tier::Counter::loads_remote);
    if (world_.first_fetch_us > 0 || tier_->Stats().counters[fetched] == 0) return;
    const auto took = std::chrono::steady_clock::now() - began_;
    world_.first_fetch_us = static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(took).count());
  }

  CrashWorld& world_;
  const std::chrono::steady_clock::time_point began_;
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<tier::Tier> tier_;
  std::vector<Stamp> stamps_ = std::vector<Stamp>(kCrashPages);
  const Stamp started_at_ = std::random_device{}() >> 1;
};

int Run(char** arguments, char** end) {
  auto world = Memory::Adopt(HandleOf(arguments[3], arguments[4]));
  if (!world.ok()) Fail(world.error().message);
  auto memory = Memory::Adopt(HandleOf(arguments[1], arguments[2]));
  if (!memory.ok()) Fail(memory.error().message);
  auto state = tier::State::Adopt(std::move(memory.value()), kCrashSlots, kCrashPoolBytes);
  if (!state.ok()) Fail(state.error().message);
  state.value()->TakeOver();
  Worker worker(std::move(state.value()), reinterpret_cast<CrashWorld*>(world.value()->data()),
                {arguments + 6, end});
  worker.Verify();
  const bool whole = std::atoi(arguments[5]) == 1;
  if (whole && !Eventually([&] { return worker.Whole(); })) Fail("replicas are missing");
  if (write(STDOUT_FILENO, "\n", 1) != 1) return 2;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) threads.emplace_back([&, i] { worker.Work(i); });
  for (std::thread& thread : threads) thread.join();
  return 0;
}

}  // namespace
}  // namespace farswap::remote

int main(int argc, char** argv) {
  if (argc < 7) return 2;
  setenv("GRPC_POLL_STRATEGY", "poll", 0);  // as the daemons do
  return farswap::remote::Run(argv, argv + argc);
}
