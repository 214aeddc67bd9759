// A tier over a MemoryRemote, and pages whose content follows from (slot, generation).
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "awaited_io.h"
#include "memory_remote.h"
#include "stamped_page.h"
#include "tier/tier.h"
#include "waiter.h"

namespace farswap::tier {

/// Which kind the page of a slot and generation is: all kinds occur, most are compressible.
inline PageKind KindOf(SlotIndex slot, std::uint32_t generation) {
  switch ((slot * 7 + generation) % 10) {
    case 0:
      return PageKind::kZero;
    case 1:
      return PageKind::kSameFilled;
    case 2:
    case 3:
      return PageKind::kRandom;
    default:
      return PageKind::kCompressible;
  }
}

inline Page MakePage(SlotIndex slot, std::uint32_t generation, PageKind kind) {
  Page page;
  FillNumbered(kind, std::uint64_t{slot} << 32 | generation, page.data());
  return page;
}

inline Page MakePage(SlotIndex slot, std::uint32_t generation) {
  return MakePage(slot, generation, KindOf(slot, generation));
}

/// Letters without repetition: nothing for LZ4 to find, but fewer than 8 bits each.
inline Page PageOfLetters(std::uint64_t seed, unsigned letters) {
  std::mt19937_64 random(seed);
  Page page;
  for (std::byte& byte : page) byte = static_cast<std::byte>('A' + random() % letters);
  return page;
}

/// A page that shrinks to a half by itself, and to almost nothing beside one like it.
inline Page PageLikeItsNeighbours(SlotIndex slot, std::uint32_t generation) {
  Page page = MakePage(0, 0, PageKind::kRandom);
  std::fill(page.begin() + kPageBytes / 2, page.end(), std::byte{});
  std::memcpy(page.data(), &slot, sizeof(slot));
  std::memcpy(page.data() + sizeof(slot), &generation, sizeof(generation));
  return page;
}

/// The time that stores wait by. A test may stop it, and then alone lets it pass.
class StoreWaitClock {
 public:
  using Real = std::chrono::steady_clock;

  static Real::time_point Now() {
    const Real::duration stopped_at{stopped_at_.load()};
    return stopped_at == kRuns ? Real::now() : Real::time_point{stopped_at};
  }
  static void Run() { stopped_at_ = kRuns.count(); }
  static void Stop() { stopped_at_ = Real::now().time_since_epoch().count(); }
  static void Advance(Real::duration by) { stopped_at_ += by.count(); }

 private:
  static constexpr Real::duration kRuns{0};
  static inline std::atomic<Real::rep> stopped_at_{kRuns.count()};
};

class TierFixture : public ::testing::Test {
 protected:
  void Start(std::uint64_t slots = 16384, std::uint64_t pool_bytes = std::uint64_t{4} << 20,
             std::chrono::milliseconds store_wait = kHangGuard) {
    config_.slots = slots;
    config_.pool_bytes_max = pool_limit_bytes_ = pool_bytes;
    config_.store_wait = store_wait;
    config_.now = &StoreWaitClock::Now;
    auto made = Tier::Create(config_, &remote_);
    ASSERT_TRUE(made.ok()) << made.error().message;
    tier_ = std::move(made.value());
    words_ = std::vector<std::atomic<SlotWord>>(slots);
  }
  void StartWithWords(std::uint64_t slots = 16384,
                      std::uint64_t pool_bytes = std::uint64_t{4} << 20,
                      std::chrono::milliseconds store_wait = kHangGuard) {
    Start(slots, pool_bytes, store_wait);
    UseWords();
  }
  void UseWords() { tier_->UseSlotWords(words_.data()); }

  // What the kernel's hooks do to a slot's word.
  void KernelWrites(SlotIndex slot, CgroupId id) {
    words_[slot] = SlotWord{id} << 32 | ((words_[slot] & 0xfffffffe) + 2);
  }
  void KernelFrees(SlotIndex slot) { words_[slot] = ((words_[slot] & ~SlotWord{1}) + 2) | 1; }

  void TearDown() override {
    StoreWaitClock::Run();
    if (tier_ == nullptr) return;
    remote_.Release();
    tier_->StopWriteback();
    ExpectInvariants();
  }

  /// Lets time of the stopped clock pass, and the stores that wait find out.
  void LetPass(std::chrono::milliseconds time) {
    StoreWaitClock::Advance(time);
    SetPoolLimit(pool_limit_bytes_);
  }
  void SetPoolLimit(std::uint64_t bytes) {
    pool_limit_bytes_ = bytes;
    ASSERT_TRUE(tier_->SetLimits(bytes, config_.accept_threshold_percent).ok());
  }

  IoStatus TryStore(SlotIndex slot, PageKind kind, PendingStore* store,
                    std::uint32_t generation = 1) {
    return tier_->TryStore(slot, MakePage(slot, generation, kind).data(), store);
  }
  // Less than separates two shortages.
  static constexpr std::chrono::milliseconds kStoreWait{4000};
  /// Stops the clock and stores random pages until one has waited without success; returns its
  /// slot.
  SlotIndex FillUntilOneIsRefused() {
    StoreWaitClock::Stop();
    SlotIndex slot = 0;
    AwaitedStore refused;
    while (TryStore(slot, PageKind::kRandom, &refused) == IoStatus::kOk) ++slot;
    LetPass(config_.store_wait);
    EXPECT_EQ(refused.Wait(), IoStatus::kNoSpace);
    return slot;
  }
  /// Stores of slots from `first` on find the shortage that goes on.
  void ExpectRefusedAtOnce(SlotIndex first) {
    for (SlotIndex slot = first; slot < first + 100; ++slot) {
      AwaitedStore refused;
      ASSERT_EQ(TryStore(slot, PageKind::kRandom, &refused), IoStatus::kNoSpace);
    }
  }

  void ExpectInvariants() {
    const Outcome fits = tier_->Check();
    EXPECT_TRUE(fits.ok()) << fits.error().message;
    const TierStats stats = tier_->Stats();
    EXPECT_EQ(stats.pages.held(), Balance(stats.counters));
    std::uint64_t entry_bytes = 0;
    for (const GroupStats& group : tier_->CgroupStats()) {
      EXPECT_EQ(group.pages.held(), Balance(group.counters)) << "cgroup " << group.id;
      entry_bytes += group.pool_bytes;
    }
    EXPECT_EQ(entry_bytes, stats.pool_entry_bytes);
    EXPECT_LE(stats.pool_payload_bytes, stats.pool_entry_bytes);
    EXPECT_LE(stats.pool_entry_bytes, stats.pool_used_bytes);
    EXPECT_LE(stats.pool_used_bytes, stats.pool_limit_bytes);
  }

  /// Pages that must be there by what was counted.
  static std::uint64_t Balance(const CounterValues& counters) {
    const auto count = [&](Counter c) { return counters[static_cast<std::size_t>(c)]; };
    return count(Counter::stores) + count(Counter::recovered) - count(Counter::overwrites) -
           count(Counter::trims) - count(Counter::early_frees) - count(Counter::lost_failed_store);
  }

  std::uint64_t Count(Counter counter) {
    return tier_->Stats().counters[static_cast<std::size_t>(counter)];
  }

  IoStatus Store(SlotIndex slot, std::uint32_t generation) {
    return StoreWait(*tier_, slot, MakePage(slot, generation).data());
  }

  IoStatus StoreKind(SlotIndex slot, std::uint32_t generation, PageKind kind) {
    return StoreWait(*tier_, slot, MakePage(slot, generation, kind).data());
  }

  /// The same of PageLikeItsNeighbours().
  void StorePage(SlotIndex slot, std::uint32_t generation) {
    ASSERT_EQ(StoreWait(*tier_, slot, PageLikeItsNeighbours(slot, generation).data()),
              IoStatus::kOk);
  }
  void ExpectPage(SlotIndex slot, std::uint32_t generation) {
    EXPECT_EQ(Read(slot), PageLikeItsNeighbours(slot, generation)) << "slot " << slot;
  }

  /// The page, from pool or servers.
  Page Read(SlotIndex slot) {
    Page page{};
    EXPECT_EQ(LoadWait(*tier_, slot, page.data()), IoStatus::kOk) << "slot " << slot;
    return page;
  }
  /// Returns what the failed read left in its output.
  Page ExpectReadFails(SlotIndex slot) {
    Page page{};
    EXPECT_EQ(LoadWait(*tier_, slot, page.data()), IoStatus::kIoError) << "slot " << slot;
    return page;
  }

  /// Fetches remote pages, and changes something while the request is on its way.
  template <typename Change>
  std::vector<Page> FetchDuring(const std::vector<SlotIndex>& slots, const Change& change) {
    remote_.HoldGets();
    AwaitedFetch fetch(slots);
    tier_->Fetch(&fetch);
    remote_.WaitForHeld(1);
    change();
    remote_.Release();
    EXPECT_EQ(fetch.Wait(), IoStatus::kOk);
    return fetch.pages;
  }

  IoStatus SwapOut(SlotIndex slot, CgroupId id, std::uint32_t generation = 1,
                   PageKind kind = PageKind::kCompressible) {
    KernelWrites(slot, id);
    return StoreKind(slot, generation, kind);
  }

  GroupStats GroupOf(CgroupId id) {
    for (const GroupStats& group : tier_->CgroupStats()) {
      if (group.id == id) return group;
    }
    return {};
  }
  bool Exists(CgroupId id) { return id != kUnknownCgroup && GroupOf(id).id == id; }

  std::uint64_t CountOf(CgroupId id, Counter counter) {
    return GroupOf(id).counters[static_cast<std::size_t>(counter)];
  }

  CgroupId OwnerOf(SlotIndex slot) {
    CgroupId owner;
    tier_->OwnersOf(slot, {&owner, 1});
    return owner;
  }

  std::string StateOf(SlotIndex slot) { return tier_->Explain(slot).state; }

  /// Starts a job when the batches of an earlier one have been answered.
  void StartJob(const WritebackJob& job) {
    ASSERT_TRUE(Eventually([&] { return tier_->StartManualWriteback(job); }));
  }
  void StartWriteback(std::uint64_t pages) { StartJob({.bytes = pages * kPageBytes}); }
  void AwaitJob() {
    ASSERT_TRUE(Eventually([this] { return tier_->ManualWritebackProgress().finished; }));
  }
  void RunJob(const WritebackJob& job) {
    StartJob(job);
    AwaitJob();
  }
  /// Moves the coldest pages to the remote store and waits for it.
  void WriteBack(std::uint64_t pages) { RunJob({.bytes = pages * kPageBytes}); }
  void AwaitAnswers() {
    ASSERT_TRUE(Eventually([this] { return tier_->Stats().pages.writing == 0; }));
  }

  TierConfig config_;
  std::uint64_t pool_limit_bytes_ = 0;
  // Both outlive the tier.
  MemoryRemote remote_;
  std::vector<std::atomic<SlotWord>> words_;
  std::unique_ptr<Tier> tier_;
};

}  // namespace farswap::tier
