// Figures of the local tier by itself, without sockets and servers. Each command prints one JSON
// object; bench/tier_figures.py evaluates it.
//
//   farswap-tier-bench scan second-chance|plain
//       a small hot set that is read now and then, while 20 times the pool is stored once
//   farswap-tier-bench memory SLOTS PAGES local|remote
//       what the process takes with PAGES pages on a device of SLOTS, the pool always the same
//   farswap-tier-bench stores THREADS ROUNDS MILLISECONDS
//       stores with slot words and 64 cgroups, and with neither, in turns
//   farswap-tier-bench fairness
//       what groups of several sizes lose when another one fills the pool
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/awaited_io.h"
#include "tests/stamped_page.h"
#include "tier/codec.h"
#include "tier/tier.h"

namespace farswap::tier {
namespace {

using Clock = std::chrono::steady_clock;
using Page = std::array<std::byte, kPageBytes>;

/// Acknowledges every page and keeps none.
class Sink final : public RemoteStore {
 public:
  Sink() : thread_([this] { Run(); }) {}
  ~Sink() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }

  void Put(PutBatch* batch) override {
    const std::lock_guard lock(mutex_);
    queue_.push_back(batch);
    changed_.notify_all();
  }
  void Get(RemoteFetch*) override { std::abort(); }
  bool TakesDiscards(SlotIndex) const override { return true; }
  void Discard(std::span<const DiscardItem>) override {}
  bool Writable() const override { return true; }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      PutBatch* const batch = queue_.front();
      queue_.pop_front();
      lock.unlock();
      std::fill_n(batch->results.begin(), batch->count, PutResult::kAcked);
      batch->OnPutDone();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<PutBatch*> queue_;
  bool stopping_ = false;
  std::thread thread_;
};

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "farswap-tier-bench: %s\n", what);
  std::exit(1);
}

std::unique_ptr<Tier> MakeTier(std::uint64_t slots, std::uint64_t pool_bytes, RemoteStore* remote,
                               bool second_chance = true) {
  TierConfig config;
  config.slots = slots;
  config.pool_bytes_max = pool_bytes;
  config.second_chance = second_chance;
  config.store_wait = std::chrono::milliseconds{60000};
  auto made = Tier::Create(config, remote);
  if (!made.ok()) Require(false, made.error().message.c_str());
  return std::move(made.value());
}

void Store(Tier* tier, SlotIndex slot, PageKind kind) {
  Page page;
  FillNumbered(kind, slot, page.data());
  Require(StoreWait(*tier, slot, page.data()) == IoStatus::kOk, "a store was refused");
}

template <typename Condition>
void WaitUntil(const Condition& condition, const char* what) {
  const auto deadline = Clock::now() + std::chrono::seconds(600);
  while (!condition()) {
    Require(Clock::now() < deadline, what);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// --- A scan -------------------------------------------------------------------------------------

int MeasureScan(bool second_chance) {
  constexpr std::uint64_t kPoolBytes = std::uint64_t{32} << 20;
  constexpr SlotIndex kPoolPages = kPoolBytes / kPageBytes;
  constexpr SlotIndex kHotPages = kPoolPages / 10;
  constexpr SlotIndex kScanPages = 20 * kPoolPages;
  // Every hot page is read twice while the scan fills the pool once.
  constexpr SlotIndex kScanPagesPerRead = kPoolPages / kHotPages / 2;

  Sink sink;
  const auto tier = MakeTier(kHotPages + kScanPages, kPoolBytes, &sink, second_chance);
  for (SlotIndex slot = 0; slot < kHotPages; ++slot) Store(tier.get(), slot, PageKind::kRandom);
  std::uint64_t reads = 0;
  std::uint64_t hits = 0;
  Page page;
  for (SlotIndex i = 0; i < kScanPages; ++i) {
    Store(tier.get(), kHotPages + i, PageKind::kRandom);
    if (i % kScanPagesPerRead != 0) continue;
    const auto slot = static_cast<SlotIndex>(reads++ % kHotPages);
    if (tier->Load(slot, page.data()) == Tier::LoadResult::kDone) {
      ++hits;
    } else {
      Store(tier.get(), slot, PageKind::kRandom);  // in memory again, changed, swapped out again
    }
  }
  std::printf("{\"reads\": %llu, \"hits\": %llu}\n", static_cast<unsigned long long>(reads),
              static_cast<unsigned long long>(hits));
  return 0;
}

// --- Memory -------------------------------------------------------------------------------------

std::uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t size = 0;
  std::uint64_t resident = 0;
  statm >> size >> resident;
  return resident * kPageBytes;
}

// Zeros with some bytes of its own, as many as make an object that fills its entry: what is lost to
// rounding is the pool's business, and another figure.
void FillSmall(std::uint64_t number, Page* page) {
  constexpr std::size_t kObjectBytes = 48;
  page->fill(std::byte{0});
  do {
    const std::array<std::uint64_t, 3> own{Mix(number), Mix(~number), Mix(number << 1)};
    std::memcpy(page->data() + 2048, own.data(), 18);
    number += std::uint64_t{1} << 32;
  } while (CompressPage(page->data()).bytes.size() != kObjectBytes);
}

int MeasureMemory(std::uint64_t slots, std::uint64_t pages, bool remote) {
  constexpr std::uint64_t kPoolBytes = std::uint64_t{768} << 20;
  Require(pages >= 1 && pages <= slots, "more pages than slots");
  Sink sink;
  const auto tier = MakeTier(slots, kPoolBytes, &sink);
  Page page;
  for (std::uint64_t slot = 0; slot < pages; ++slot) {
    FillSmall(slot, &page);
    Require(StoreWait(*tier, static_cast<SlotIndex>(slot), page.data()) == IoStatus::kOk,
            "a store was refused");
  }
  TierStats stats = tier->Stats();
  if (remote) {
    Require(tier->StartManualWriteback({.bytes = pages * kPageBytes}), "no writeback");
    WaitUntil([&] { return tier->Stats().pages.remote == pages; }, "pages stay in the pool");
    stats = tier->Stats();
  } else {
    Require(stats.pages.local == pages, "pages left the pool");
  }
  std::printf(
      "{\"resident_bytes\": %llu, \"entry_bytes\": %llu, \"payload_bytes\": %llu, "
      "\"pages\": %llu}\n",
      static_cast<unsigned long long>(ResidentBytes()),
      static_cast<unsigned long long>(stats.pool_entry_bytes),
      static_cast<unsigned long long>(stats.pool_payload_bytes),
      static_cast<unsigned long long>(pages));
  return 0;
}

// --- Stores -------------------------------------------------------------------------------------

constexpr SlotIndex kStoreSlots = 16384;
constexpr CgroupId kGroups = 64;

/// One of the two sides: a tier in which everything fits, and what says whose its pages are.
struct Side {
  explicit Side(bool attribute) : words(kStoreSlots) {
    tier = MakeTier(kStoreSlots, std::uint64_t{96} << 20, &sink);
    if (!attribute) return;
    for (CgroupId id = 1; id <= kGroups; ++id) tier->PlaceCgroup(id, kUnknownCgroup);
    tier->UseSlotWords(words.data());
  }
  Sink sink;
  std::vector<std::atomic<SlotWord>> words;
  std::unique_ptr<Tier> tier;
};

std::vector<Page> MakePages() {
  std::vector<Page> pages(256);
  for (std::size_t i = 0; i < pages.size(); ++i) {
    FillNumbered(PageKind::kCompressible, i, pages[i].data());
  }
  return pages;
}

// The word is raised for both sides: its writer has that cost.
std::uint64_t StoreFor(Side* side, const std::vector<Page>& pages, unsigned seed,
                       Clock::time_point end) {
  std::mt19937 random(seed);
  std::uint64_t stores = 0;
  while (stores % 64 != 0 || Clock::now() < end) {
    const auto slot = static_cast<SlotIndex>(random() % kStoreSlots);
    const SlotWord sequence = SequenceOf(side->words[slot].load(std::memory_order_relaxed)) + 1;
    const SlotWord cgroup = 1 + slot / 8 % kGroups;
    side->words[slot].store(cgroup << 32 | (sequence & 0x7fffffff) << 1);
    StoreWait(*side->tier, slot, pages[random() % pages.size()].data());
    ++stores;
  }
  return stores;
}

double StoresPerSecond(Side* side, const std::vector<Page>& pages, unsigned threads,
                       std::chrono::milliseconds time) {
  std::atomic<std::uint64_t> stores{0};
  std::vector<std::thread> running;
  const auto began = Clock::now();
  for (unsigned i = 0; i < threads; ++i) {
    running.emplace_back([&, i] { stores += StoreFor(side, pages, i, began + time); });
  }
  for (std::thread& thread : running) thread.join();
  const std::chrono::duration<double> took = Clock::now() - began;
  return static_cast<double>(stores.load()) / took.count();
}

void PrintList(const char* name, const std::vector<double>& values) {
  std::printf("\"%s\": [", name);
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::printf("%s%.0f", i == 0 ? "" : ", ", values[i]);
  }
  std::printf("]");
}

int MeasureStores(unsigned threads, int rounds, std::chrono::milliseconds time) {
  const std::vector<Page> pages = MakePages();
  Side attributed(true);
  Side plain(false);
  StoresPerSecond(&attributed, pages, threads, time);
  StoresPerSecond(&plain, pages, threads, time);
  std::vector<double> with;
  std::vector<double> without;
  for (int round = 0; round < rounds; ++round) {
    with.push_back(StoresPerSecond(&attributed, pages, threads, time));
    without.push_back(StoresPerSecond(&plain, pages, threads, time));
  }
  std::printf("{");
  PrintList("attributed", with);
  std::printf(", ");
  PrintList("plain", without);
  std::printf("}\n");
  return 0;
}

// --- Fairness -----------------------------------------------------------------------------------

int MeasureFairness() {
  constexpr std::array<SlotIndex, 4> kPages{1000, 2000, 4000, 8000};
  constexpr SlotIndex kNewcomers = 6000;
  Sink sink;
  const auto tier = MakeTier(32768, std::uint64_t{64} << 20, &sink);
  SlotIndex slot = 0;
  const auto store = [&](CgroupId id, SlotIndex pages) {
    tier->SetLabel(id);
    for (const SlotIndex end = slot + pages; slot < end; ++slot) {
      Store(tier.get(), slot, PageKind::kRandom);
    }
  };
  for (std::size_t i = 0; i < kPages.size(); ++i) store(static_cast<CgroupId>(i + 1), kPages[i]);
  Require(tier->Stats().pages.local == slot, "the pool is too small");
  store(static_cast<CgroupId>(kPages.size() + 1), kNewcomers);
  WaitUntil([&] { return !tier->Stats().shrinking && tier->Stats().pages.writing == 0; },
            "the shrinker does not rest");
  std::vector<double> pages;
  std::vector<double> lost;
  for (const GroupStats& group : tier->CgroupStats()) {
    if (group.id < 1 || group.id > kPages.size()) continue;
    pages.push_back(static_cast<double>(group.pages.held()));
    lost.push_back(static_cast<double>(group.pages.remote));
  }
  std::printf("{");
  PrintList("pages", pages);
  std::printf(", ");
  PrintList("lost", lost);
  std::printf("}\n");
  return 0;
}

int Run(const std::vector<std::string>& words) {
  const std::string command = words.empty() ? "" : words[0];
  const auto number = [&](std::size_t i) { return std::strtoull(words[i].c_str(), nullptr, 10); };
  if (command == "scan" && words.size() == 2) return MeasureScan(words[1] == "second-chance");
  if (command == "memory" && words.size() == 4) {
    return MeasureMemory(number(1), number(2), words[3] == "remote");
  }
  if (command == "stores" && words.size() == 4) {
    return MeasureStores(static_cast<unsigned>(number(1)), static_cast<int>(number(2)),
                         std::chrono::milliseconds(number(3)));
  }
  if (command == "fairness" && words.size() == 1) return MeasureFairness();
  std::fprintf(stderr, "usage: see the head of tools/bench/tier/tier_bench.cc\n");
  return 2;
}

}  // namespace
}  // namespace farswap::tier

int main(int argc, char** argv) {
  return farswap::tier::Run(std::vector<std::string>(argv + 1, argv + argc));
}
