// Threads that store, trim and read the same slots while the shrinker writes them back, against a
// model: what a read returns must be a generation that could be current during the read.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tier_fixture.h"

namespace farswap::tier {
namespace {

// One writer per slot set; readers everywhere. A slot's generation is published before and after
// its store, so that a reader can bound what it may see.
class TierRace : public TierFixture, public ::testing::WithParamInterface<bool> {
 protected:
  static constexpr SlotIndex kSlots = 3000;

  struct Bounds {
    std::atomic<std::uint32_t> started{0};
    std::atomic<std::uint32_t> finished{0};
  };

  // Generation g of a slot is a trim when g % 8 == 0, a page of generation g otherwise.
  static Page Expected(SlotIndex slot, std::uint32_t generation) {
    if (generation % 8 == 0) return Page{};
    return GetParam() && generation % 4 != 0 ? PageLikeItsNeighbours(slot, generation)
                                             : MakePage(slot, generation);
  }

  void Write(unsigned writer, unsigned writers, int steps) {
    std::mt19937_64 random(writer);
    for (int step = 0; step < steps; ++step) {
      const auto slot = static_cast<SlotIndex>(random() % (kSlots / writers) * writers + writer);
      const std::uint32_t generation = bounds_[slot].finished.load() + 1;
      bounds_[slot].started.store(generation);
      if (generation % 8 == 0) {
        tier_->Invalidate(slot, 1);
      } else {
        ASSERT_EQ(StoreWait(*tier_, slot, Expected(slot, generation).data()), IoStatus::kOk);
      }
      bounds_[slot].finished.store(generation);
    }
  }

  void ReadUntilDone(unsigned seed) {
    std::mt19937_64 random(seed);
    while (!done_.load()) {
      std::vector<SlotIndex> slots;
      const auto first = static_cast<SlotIndex>(random() % (kSlots - 8));
      for (SlotIndex i = 0; i < 8; ++i) slots.push_back(first + i);
      std::vector<std::uint32_t> oldest;
      for (const SlotIndex slot : slots) oldest.push_back(bounds_[slot].finished.load());
      AwaitedFetch fetch(slots);
      tier_->Fetch(&fetch);
      ASSERT_EQ(fetch.Wait(), IoStatus::kOk);
      for (std::size_t i = 0; i < slots.size(); ++i) {
        const std::uint32_t newest = bounds_[slots[i]].started.load();
        bool matched = false;
        for (std::uint32_t g = oldest[i]; g <= newest && !matched; ++g) {
          matched = fetch.pages[i] == Expected(slots[i], g);
        }
        ASSERT_TRUE(matched) << "slot " << slots[i] << " generations " << oldest[i] << " to "
                             << newest;
      }
      reads_.fetch_add(slots.size());
    }
  }

  std::array<Bounds, kSlots> bounds_;
  std::atomic<bool> done_{false};
  std::atomic<std::uint64_t> reads_{0};
};

TEST_P(TierRace, ReadsSeeOnlyGenerationsThatWereCurrent) {
  Start(kSlots, std::uint64_t{4} << 20);
  ASSERT_TRUE(tier_->SetPacking(GetParam()).ok());
  constexpr unsigned kWriters = 2;
  std::vector<std::thread> writers;
  std::vector<std::thread> readers;
  for (unsigned i = 0; i < kWriters; ++i) {
    writers.emplace_back([this, i] { Write(i, kWriters, 15000); });
  }
  for (unsigned i = 0; i < 2; ++i) readers.emplace_back([this, i] { ReadUntilDone(100 + i); });
  std::thread faults([this] {
    std::mt19937_64 random(5);
    while (!done_.load()) {
      // Failures between successes: entries travel back and forth.
      remote_.FailPuts(random() % 3 == 0 ? PutResult::kUnavailable : PutResult::kAcked);
      tier_->StartManualWriteback({.bytes = kPageBytes * 64});
      std::this_thread::yield();
    }
    remote_.FailPuts(PutResult::kAcked);
  });
  for (std::thread& thread : writers) thread.join();
  done_.store(true);
  for (std::thread& thread : readers) thread.join();
  faults.join();
  EXPECT_GT(reads_.load(), 0u);
  EXPECT_GT(Count(Counter::written_back_pages), 0u);
  if (GetParam()) {
    EXPECT_GT(Count(Counter::packed), 0u);
    EXPECT_GT(Count(Counter::neighbours_adopted), 0u);
    EXPECT_GT(Count(Counter::clean_dropped), 0u);
  }
  for (SlotIndex slot = 0; slot < kSlots; ++slot) {
    ASSERT_EQ(Read(slot), Expected(slot, bounds_[slot].finished.load())) << slot;
  }
}

INSTANTIATE_TEST_SUITE_P(PackingOffAndOn, TierRace, ::testing::Bool());

}  // namespace
}  // namespace farswap::tier
