// Stores that wait, are overtaken, refused and cancelled on many threads, while limits, the tree,
// the pool and the servers change under them: at the end each slot holds what its last store or
// trim came to.
#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <thread>

#include "tier_fixture.h"

namespace farswap::tier {
namespace {

using std::chrono::milliseconds;

constexpr SlotIndex kSlots = 3000;
constexpr unsigned kWriters = 3;
constexpr CgroupId kFirstCgroup = 100;
constexpr CgroupId kCgroups = 4;

// Writes slots of its own, and knows what became of each write.
class Writer {
 public:
  Writer(Tier* tier, std::vector<std::atomic<SlotWord>>* words, unsigned number)
      : tier_(tier), words_(words), number_(number), random_(number), writes_(kSlots) {}

  void Run(int steps) {
    for (int step = 0; step < steps; ++step) {
      const auto slot =
          static_cast<SlotIndex>(random_() % (kSlots / kWriters) * kWriters + number_);
      const auto action = random_() % 100;
      if (action < 60) StoreLater(slot);
      if (action >= 60 && action < 65) StoreNow(slot);
      if (action >= 65 && action < 85) Trim(slot);
      if (action >= 85 && action < 95) Cancel();
      if (action >= 95) Collect();
    }
    while (!under_way_.empty()) Collect();
  }

  // What is not as it should be.
  template <typename ReadPage>
  std::string Check(ReadPage read) const {
    for (SlotIndex slot = number_; slot < kSlots; slot += kWriters) {
      std::uint32_t stored = 0;
      for (const Write& write : writes_[slot]) {
        if (write.outcome == Outcome::kStored) stored = write.generation;
        if (write.outcome == Outcome::kEmptied) stored = 0;
      }
      const Page expected = stored == 0 ? Page{} : PageOf(slot, stored);
      if (read(slot) == expected) continue;
      return "slot " + std::to_string(slot) + " does not hold generation " + std::to_string(stored);
    }
    return "";
  }
  std::uint64_t waited() const { return waited_; }
  std::uint64_t cancelled() const { return cancelled_; }

 private:
  enum class Outcome : std::uint8_t { kUnknown, kStored, kEmptied, kCancelled };
  struct Write {
    std::uint32_t generation;
    Outcome outcome;
  };
  struct Waiting {
    std::unique_ptr<AwaitedStore> store;
    SlotIndex slot;
    std::size_t write;
  };
  static constexpr std::size_t kWaitingMax = 64;

  static Page PageOf(SlotIndex slot, std::uint32_t generation) {
    return MakePage(slot, generation,
                    generation % 8 == 0   ? PageKind::kSameFilled
                    : generation % 4 == 0 ? PageKind::kCompressible
                                          : PageKind::kRandom);
  }
  static Outcome OutcomeOf(IoStatus status) {
    EXPECT_TRUE(status == IoStatus::kOk || status == IoStatus::kNoSpace);
    return status == IoStatus::kOk ? Outcome::kStored : Outcome::kEmptied;
  }
  // The next page of the slot, as the kernel would announce it.
  Page Next(SlotIndex slot) {
    const auto generation = static_cast<std::uint32_t>(writes_[slot].size() + 1);
    writes_[slot].push_back({generation, Outcome::kUnknown});
    const SlotWord cgroup = kFirstCgroup + slot / kWriters % kCgroups;
    (*words_)[slot].store(cgroup << 32 | SlotWord{generation} << 1);
    return PageOf(slot, generation);
  }
  void StoreLater(SlotIndex slot) {
    if (under_way_.size() == kWaitingMax) Collect();
    auto store = std::make_unique<AwaitedStore>();
    const IoStatus status = tier_->TryStore(slot, Next(slot).data(), store.get());
    if (status != IoStatus::kPending) {
      writes_[slot].back().outcome = OutcomeOf(status);
      return;
    }
    ++waited_;
    under_way_.push_back({std::move(store), slot, writes_[slot].size() - 1});
  }
  void StoreNow(SlotIndex slot) {
    const IoStatus status = StoreWait(*tier_, slot, Next(slot).data());
    writes_[slot].back().outcome = OutcomeOf(status);
  }
  void Trim(SlotIndex slot) {
    tier_->Invalidate(slot, 1);
    writes_[slot].push_back({0, Outcome::kEmptied});
  }
  void Cancel() {
    if (under_way_.empty()) return;
    const auto at = under_way_.begin() + static_cast<std::ptrdiff_t>(random_() % under_way_.size());
    if (!tier_->CancelStore(at->store.get())) return;
    ++cancelled_;
    writes_[at->slot][at->write].outcome = Outcome::kCancelled;
    under_way_.erase(at);
  }
  void Collect() {
    if (under_way_.empty()) return;
    const Waiting& first = under_way_.front();
    writes_[first.slot][first.write].outcome = OutcomeOf(first.store->Wait().value());
    under_way_.pop_front();
  }

  Tier* const tier_;
  std::vector<std::atomic<SlotWord>>* const words_;
  const unsigned number_;
  std::mt19937_64 random_;
  std::vector<std::vector<Write>> writes_;  // by slot
  std::deque<Waiting> under_way_;
  std::uint64_t waited_ = 0;
  std::uint64_t cancelled_ = 0;
};

class StoreWaitRace : public TierFixture {
 protected:
  void ChangeEverything(std::mt19937_64& random) {
    const auto id = static_cast<CgroupId>(kFirstCgroup + random() % kCgroups);
    switch (random() % 8) {
      case 0:
      case 1:
        tier_->ConfigureCgroup(id, {.pool_limit_bytes = kGroupLimitMin << random() % 3,
                                    .writeback = random() % 4 != 0,
                                    .compressor = {}});
        break;
      case 2:
        tier_->RemoveCgroup(id);
        break;
      case 3:
        tier_->PlaceCgroup(id, kUnknownCgroup);
        break;
      case 4:
        ASSERT_TRUE(tier_->SetLimits(kPoolBytes - (random() % 2 << 20), 80).ok());
        break;
      case 5:
        remote_.SetWritable(random() % 2 == 0);
        break;
      case 6:
        remote_.FailPuts(random() % 2 == 0 ? PutResult::kUnavailable : PutResult::kAcked);
        break;
      case 7:
        random() % 2 == 0 ? remote_.HoldPuts() : remote_.Release();
        break;
    }
  }

  static constexpr std::uint64_t kPoolBytes = std::uint64_t{5} << 20;
};

TEST_F(StoreWaitRace, EachSlotEndsAsItsLastWriteDid) {
  StartWithWords(kSlots, kPoolBytes, milliseconds{3});
  std::vector<std::unique_ptr<Writer>> writers;
  std::vector<std::thread> threads;
  std::atomic<bool> done{false};
  for (unsigned i = 0; i < kWriters; ++i) {
    writers.push_back(std::make_unique<Writer>(tier_.get(), &words_, i));
    threads.emplace_back([writer = writers.back().get()] { writer->Run(8000); });
  }
  std::thread changes([&] {
    std::mt19937_64 random(42);
    while (!done.load()) {
      ChangeEverything(random);
      std::this_thread::yield();
    }
  });
  for (std::thread& thread : threads) thread.join();
  done.store(true);
  changes.join();
  ASSERT_TRUE(tier_->SetLimits(kPoolBytes, 80).ok());
  remote_.FailPuts(PutResult::kAcked);
  remote_.Release();
  for (const auto& writer : writers) {
    EXPECT_EQ(writer->Check([this](SlotIndex slot) { return Read(slot); }), "");
    EXPECT_GT(writer->waited(), 0u);
    EXPECT_GT(writer->cancelled(), 0u);
  }
  EXPECT_GT(Count(Counter::reject_cgroup_limit) + Count(Counter::reject_reclaim_fail), 0u);
}

// At its limit each store waits, without it each has room, and so has each in the pool in the end.
TEST_F(StoreWaitRace, NoneIsRefusedWhileItsCgroupComesAndGoes) {
  constexpr int kRounds = 600;
  StartWithWords(kSlots, kPoolBytes, std::chrono::minutes{10});
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> stores{0};
  std::atomic<std::uint64_t> refused{0};
  std::vector<std::thread> writers;
  for (unsigned number = 0; number < kWriters; ++number) {
    writers.emplace_back([&, number] {
      for (SlotIndex slot = number; !done.load(); slot = (slot + kWriters) % kSlots) {
        KernelWrites(slot, kFirstCgroup);
        if (StoreKind(slot, 1, PageKind::kRandom) != IoStatus::kOk) refused.fetch_add(1);
        stores.fetch_add(1);
      }
    });
  }
  for (int round = 0; round < kRounds; ++round) {
    tier_->PlaceCgroup(kFirstCgroup, kUnknownCgroup);
    tier_->ConfigureCgroup(kFirstCgroup, {.pool_limit_bytes = kGroupLimitMin, .compressor = {}});
    const std::uint64_t before = stores;
    while (stores < before + 64) std::this_thread::yield();
    tier_->RemoveCgroup(kFirstCgroup);
  }
  done.store(true);
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(refused, 0u);
  EXPECT_GT(Count(Counter::cgroup_limit_hit), 0u);
}

// The queue's thread takes a store for that of one slot, which before the slot is locked is
// cancelled and waits for another. The two slots have locks of their own and share all else.
TEST_F(StoreWaitRace, AStoreThatIsReusedIsStoredUnderTheLockOfItsSlot) {
  constexpr CgroupId kCgroup = 7;
  constexpr SlotIndex kBefore = 20, kEarlier = 40, kLater = kEarlier + 1024, kBehind = 60;
  constexpr std::uint64_t kRoom = std::uint64_t{4} << 20;
  Start(kSlots, kPoolBytes);
  remote_.SetWritable(false);
  tier_->SetLabel(kCgroup);
  const auto limit = [this](std::uint64_t bytes) {
    tier_->ConfigureCgroup(kCgroup, {.pool_limit_bytes = bytes, .compressor = {}});
  };
  const auto store = [this](SlotIndex slot, AwaitedStore* at) {
    return tier_->TryStore(slot, MakePage(slot, 1, PageKind::kRandom).data(), at);
  };
  limit(kGroupLimitMin);
  SlotIndex end = 2000;
  while (store(end, nullptr) == IoStatus::kOk) ++end;
  std::atomic<bool> done{false};
  std::thread reader([&] {
    Page page;
    while (!done.load()) tier_->Load(kLater, page.data());
  });
  int reused = 0;
  for (int round = 0; round < 5000 || reused == 0; ++round) {
    AwaitedStore before, between, behind;
    ASSERT_EQ(store(kBefore, &before), IoStatus::kPending);
    ASSERT_EQ(store(kEarlier, &between), IoStatus::kPending);
    ASSERT_EQ(store(kBehind, &behind), IoStatus::kPending);
    limit(kRoom);
    bool waits = true;
    if (tier_->CancelStore(&between)) {
      waits = store(kLater, &between) == IoStatus::kPending;
      reused += waits ? 1 : 0;
    }
    EXPECT_EQ(before.Wait(), IoStatus::kOk);
    EXPECT_EQ(behind.Wait(), IoStatus::kOk);
    if (waits) {
      EXPECT_EQ(between.Wait(), IoStatus::kOk);
    }
    limit(kGroupLimitMin);
    for (const SlotIndex slot : {kBefore, kEarlier, kLater, kBehind}) tier_->Invalidate(slot, 1);
  }
  done.store(true);
  reader.join();
}

}  // namespace
}  // namespace farswap::tier
