// tier_crash_worker KIND NUMBER KIND NUMBER [STEP COUNT]: adopts the tier whose state is in the
// first memory, verifies all pages, prints a line, then writes and reads until it is killed; by
// itself when it has come to that step so many times. Exit code 1, and what is wrong on standard
// error, when a page is.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "awaited_io.h"
#include "base/step.h"
#include "surviving.h"
#include "tier/state.h"
#include "tier/tier.h"
#include "tier_crash_world.h"

namespace farswap {

namespace tier {
namespace {

constexpr unsigned kThreads = 3;
constexpr CgroupId kGroups = 5;
constexpr unsigned kStepSeconds = 300;  // in which it comes to any step

Step last_step = Step::kCount;
std::atomic<int> steps_left{0};

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::_Exit(1);
}

class Worker {
 public:
  Worker(const std::shared_ptr<State>& state, CrashWorld* world) : world_(*world), remote_(world) {
    TierConfig config;
    config.slots = kCrashSlots;
    config.pool_bytes_max = kCrashPoolBytes;
    CheckRecovery(state, config);
    auto made = Tier::Create(config, &remote_, state);
    if (!made.ok()) Fail(made.error().message);
    tier_ = std::move(made.value());
    tier_->SetRecompression(Compressor{Codec::kZstd, 1});
    if (const Outcome packs = tier_->SetPacking(true); !packs.ok()) Fail(packs.error().message);
    tier_->UseSlotWords(words_.data());
  }

  // Before the tier recovers the same memory again, and its threads start.
  static void CheckRecovery(const std::shared_ptr<State>& state, const TierConfig& config) {
    StaleObjects stale(kCrashSlots);
    Pages pages(state, &stale);
    const Outcome recovered = pages.Recover(config.boot_seconds());
    if (!recovered.ok()) Fail(recovered.error().message);
    if (const Outcome fits = pages.Check(); !fits.ok()) Fail(fits.error().message);
  }

  // The page of each slot is that of a stamp that it may have, and all are counted.
  void Verify() {
    std::uint64_t expected = 0;
    for (SlotIndex slot = 0; slot < kCrashSlots; ++slot) {
      WrittenSlot& written = world_.written[slot];
      const Stamp answered = written.answered;
      const Stamp begun = written.begun;
      const bool is_answered = Has(slot, answered);
      if (!is_answered && !Has(slot, begun)) {
        Fail("slot " + std::to_string(slot) + " has neither page " + std::to_string(answered) +
             " nor " + std::to_string(begun) + ", state " + tier_->Explain(slot).state + " " +
             tier_->Explain(slot).problem);
      }
      written.begun = written.answered = is_answered ? answered : begun;
      expected += tier_->Explain(slot).state == std::string("empty") ? 0 : 1;
    }
    const TierStats stats = tier_->Stats();
    const PageCounts& pages = stats.pages;
    const std::uint64_t counted =
        pages.same_filled + pages.local + pages.writing + pages.clean + pages.remote;
    const std::uint64_t recovered = stats.counters[static_cast<std::size_t>(Counter::recovered)];
    if (counted != expected || recovered != expected) {
      Fail(std::to_string(counted) + " pages are counted, " + std::to_string(recovered) +
           " recovered, " + std::to_string(expected) + " found");
    }
  }

  // Its share of the slots.
  [[noreturn]] void Work(unsigned thread) {
    std::mt19937_64 random(std::random_device{}());
    while (true) {
      const auto share = static_cast<SlotIndex>(random() % (kCrashSlots / kThreads));
      // Some are hot.
      const SlotIndex hot = random() % 2 == 0 ? share % 32 : share;
      const SlotIndex slot = hot * kThreads + thread;
      remote_.NoteOperation();
      switch (random() % 8) {
        case 0:
          random() % 2 == 0 ? Trim(slot) : Free(slot);
          if (random() % 64 == 0) Regroup(static_cast<CgroupId>(1 + random() % kGroups));
          if (random() % 16 == 0) tier_->StartManualWriteback({.bytes = 64 * kPageBytes});
          break;
        case 1:
        case 2:
        case 3:
          if (!Has(slot, world_.written[slot].answered)) {
            Fail("slot " + std::to_string(slot) + " has another page");
          }
          break;
        default:
          Store(slot);
      }
    }
  }

 private:
  bool Has(SlotIndex slot, Stamp stamp) {
    Page page;
    if (LoadWait(*tier_, slot, page.data()) != IoStatus::kOk) return false;
    Page wanted{};
    if (stamp != 0) FillStamped(slot, stamp, wanted.data());
    return page == wanted;
  }
  void Trim(SlotIndex slot) {
    world_.written[slot].begun = 0;
    tier_->Invalidate(slot, 1);
    world_.written[slot].answered = 0;
  }
  // As the kernel's hooks do to a slot's word.
  void Free(SlotIndex slot) {
    words_[slot] = ((words_[slot] & ~SlotWord{1}) + 2) | 1;
    world_.written[slot].begun = 0;
    if (tier_->OnSlotFree(slot)) {
      world_.written[slot].answered = 0;
    } else {
      world_.written[slot].begun = world_.written[slot].answered.load();
    }
  }
  void Regroup(CgroupId id) {
    const std::lock_guard lock(tree_mutex_);
    tier_->RemoveCgroup(id);
    tier_->PlaceCgroup(id, id > 2 ? id - 2 : kUnknownCgroup);
  }
  void Store(SlotIndex slot) {
    words_[slot] =
        SlotWord{1 + slot / kBundleSlots % kGroups} << 32 | ((words_[slot] & 0xfffffffe) + 2);
    const Stamp stamp = ++stamps_[slot] + started_at_;
    Page page;
    FillStamped(slot, stamp, page.data());
    world_.written[slot].begun = stamp;
    // A refused store empties the slot.
    const bool stored = StoreWait(*tier_, slot, page.data()) == IoStatus::kOk;
    if (!stored) world_.written[slot].begun = 0;
    world_.written[slot].answered = stored ? stamp : 0;
  }

  CrashWorld& world_;
  CrashRemote remote_;
  std::vector<std::atomic<SlotWord>> words_ = std::vector<std::atomic<SlotWord>>(kCrashSlots);
  std::mutex tree_mutex_;
  std::unique_ptr<Tier> tier_;
  std::vector<Stamp> stamps_ = std::vector<Stamp>(kCrashSlots);
  const Stamp started_at_ = std::random_device{}() >> 1;
};

int Run(char** arguments) {
  auto world = Memory::Adopt(HandleOf(arguments[3], arguments[4]));
  if (!world.ok()) Fail(world.error().message);
  auto memory = Memory::Adopt(HandleOf(arguments[1], arguments[2]));
  if (!memory.ok()) Fail(memory.error().message);
  auto state = State::Adopt(std::move(memory.value()), kCrashSlots, kCrashPoolBytes);
  if (!state.ok()) Fail(state.error().message);
  state.value()->TakeOver();
  Worker worker(std::move(state.value()), reinterpret_cast<CrashWorld*>(world.value()->data()));
  worker.Verify();
  if (write(STDOUT_FILENO, "\n", 1) != 1) return 2;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) threads.emplace_back([&, i] { worker.Work(i); });
  for (std::thread& thread : threads) thread.join();
  return 0;
}

}  // namespace
}  // namespace tier

void Reach(Step step) {
  if (step != tier::last_step || --tier::steps_left != 0) return;
  kill(getpid(), SIGKILL);
  while (true) pause();
}

}  // namespace farswap

int main(int argc, char** argv) {
  using namespace farswap::tier;
  if (argc != 5 && argc != 7) return 2;
  if (argc == 7) {
    last_step = static_cast<farswap::Step>(std::atoi(argv[5]));
    steps_left = std::atoi(argv[6]);
    alarm(kStepSeconds);
  }
  return Run(argv);
}
