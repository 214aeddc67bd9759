// tier_recovery_bench [SLOTS PAGES]: how long a successor takes to recover a tier, by default one
// of 16 Mi slots (64 GiB) with 4 million pages in its pool, in an order that has nothing to do with
// their slots.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "surviving.h"
#include "tier/pages.h"

namespace farswap::tier {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kObjectBytes = 150;
constexpr std::uint32_t kAgeSeconds = 3600;  // of the oldest page

void Require(bool fine, const std::string& what) {
  if (fine) return;
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

class Timer {
 public:
  double Lap() {
    const auto now = Clock::now();
    const std::chrono::duration<double, std::milli> took = now - std::exchange(began_, now);
    return took.count();
  }

 private:
  Clock::time_point began_ = Clock::now();
};

void Fill(Pages* pages, std::uint64_t count) {
  std::vector<SlotIndex> slots(pages->slots());
  std::iota(slots.begin(), slots.end(), 0);
  std::ranges::shuffle(slots, std::mt19937_64(1));
  const std::array<std::byte, kObjectBytes> bytes{};
  for (std::uint64_t i = 0; i < count; ++i) {
    const Pages::Room room = pages->TakeRoom(kRootGroup, kObjectBytes);
    Require(room.entry != kNoEntry, "the pool is full");
    const auto stored_s = static_cast<std::uint32_t>(i * kAgeSeconds / count);
    const SlotRecord record = pages->Fill(room.entry, {Codec::kLz4, bytes}, 0, stored_s);
    const auto lock = pages->Lock(slots[i]);
    pages->Publish(slots[i], record);
  }
}

int Run(std::uint64_t slots, std::uint64_t count) {
  const std::uint64_t pool_bytes = Pool::kPoolBytesMin + count * Pool::EntryBytes(kObjectBytes);
  auto state =
      OfSurvivingKind([&](MemoryKind kind) { return State::Create(slots, pool_bytes, kind); });
  Require(state != nullptr, "no memory outlives a process here");
  const Memory::Handle handle = state->memory().handle();
  const auto map = [&] {
    Memory::Handle mapped = handle;
    if (handle.kind != MemoryKind::kSysv) mapped.number = dup(handle.number);
    auto memory = Memory::Adopt(mapped);
    Require(memory.ok(), "the memory cannot be mapped");
    return std::move(memory.value());
  };
  {
    StaleObjects stale(slots);
    auto first = State::Adopt(map(), slots, pool_bytes);
    Require(first.ok(), "not adopted");
    first.value()->TakeOver();
    Pages pages(std::move(first.value()), &stale);
    Fill(&pages, count);
  }
  std::printf("%llu slots, %llu pages, memory of the kind %s, ms\n%10s %10s %10s\n",
              static_cast<unsigned long long>(slots), static_cast<unsigned long long>(count),
              NameOf(handle.kind), "map", "recover", "in all");
  for (int round = 0; round < 5; ++round) {
    Timer timer;
    auto adopted = State::Adopt(map(), slots, pool_bytes);
    Require(adopted.ok(), "not adopted");
    adopted.value()->TakeOver();
    const double mapped = timer.Lap();
    StaleObjects stale(slots);
    Pages pages(std::move(adopted.value()), &stale);
    const Outcome outcome = pages.Recover(kAgeSeconds);
    Require(outcome.ok(), "not recovered");
    const double recovered = timer.Lap();
    std::printf("%10.1f %10.1f %10.1f\n", mapped, recovered, mapped + recovered);
  }
  state->memory().Remove();
  return 0;
}

}  // namespace
}  // namespace farswap::tier

int main(int argc, char** argv) {
  const bool sized = argc == 3;
  return farswap::tier::Run(sized ? std::strtoull(argv[1], nullptr, 10) : std::uint64_t{16} << 20,
                            sized ? std::strtoull(argv[2], nullptr, 10) : 4'000'000);
}
