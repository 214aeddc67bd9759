// Threads that store, free, trim and read while cgroups come and go, limits and compressors change,
// and pages are written back. What a read returns must be a page that could be current (see
// page_history.h), and in the end everything must be where it belongs.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <fstream>
#include <thread>

#include "page_history.h"
#include "sanitized.h"
#include "tier_fixture.h"

namespace farswap::tier {
namespace {

class TierGroupRace : public TierFixture {
 protected:
  static constexpr SlotIndex kSlots = 3000;
  static constexpr unsigned kStorers = 2;
  // A tree that stays, with one of each kind of setting, and below it the cgroups that come and go.
  static constexpr std::array<CgroupId, 4> kLasting{11, 12, 13, 14};
  static constexpr CgroupId kFirstShortLived = 1000;
  static constexpr std::uint64_t kNoMoreTurns = ~std::uint64_t{0};

  void StartAll() {
    StartWithWords(kSlots, std::uint64_t{6} << 20);
    ASSERT_TRUE(tier_->PlaceCgroup(11, kUnknownCgroup));
    ASSERT_TRUE(tier_->PlaceCgroup(12, 11));
    ASSERT_TRUE(tier_->PlaceCgroup(13, kUnknownCgroup));
    ASSERT_TRUE(tier_->PlaceCgroup(14, 13));
    for (auto& cgroup : current_) cgroup.store(kLasting[0]);
  }

  // --- What the kernel does with a slot. Each slot is one storer's.

  void StoreStamped(SlotIndex slot, CgroupId cgroup) {
    const Stamp stamp = history_.NextStamp();
    Page page;
    FillStamped(slot, stamp, page.data());
    const PageHistory::Time began = history_.BeginWrite(slot, 1, stamp);
    KernelWrites(slot, cgroup);
    ASSERT_EQ(StoreWait(*tier_, slot, page.data()), IoStatus::kOk);
    history_.EndWrite(slot, 1, began);
  }
  void Trim(SlotIndex slot) {
    const PageHistory::Time began = history_.BeginWrite(slot, 1, 0);
    tier_->Invalidate(slot, 1);
    history_.EndWrite(slot, 1, began);
  }
  // From now on the page may be dropped at any time, until the slot is stored again.
  void FreeSlot(SlotIndex slot) {
    const PageHistory::Time began = history_.BeginWrite(slot, 1, 0);
    KernelFrees(slot);
    history_.EndWrite(slot, 1, began, /*refused=*/true);
    freed_[slot % freed_.size()].store(slot);
  }

  // All others go at the pace of the cgroups, some steps for each: threads that ran free would take
  // the processors from the one that all wait for. False: the last cgroup has come and gone.
  bool AwaitTurn(std::uint64_t step, std::uint64_t steps_per_cgroup) {
    std::uint64_t turn = turn_.load();
    while (turn != kNoMoreTurns && step / steps_per_cgroup > turn) {
      turn_.wait(turn);
      turn = turn_.load();
    }
    return turn != kNoMoreTurns;
  }

  void UseSlots(unsigned storer) {
    std::mt19937_64 random(storer);
    for (std::uint64_t step = 0; AwaitTurn(step, 8); ++step) {
      const auto slot = static_cast<SlotIndex>(random() % (kSlots / kStorers) * kStorers + storer);
      switch (random() % 8) {
        case 0:
          Trim(slot);
          break;
        case 1:
        case 2:
          FreeSlot(slot);
          break;
        default:
          StoreStamped(slot, current_[random() % current_.size()].load());
      }
    }
  }

  // --- Everybody else

  void DropFreed() {
    std::mt19937_64 random(21);
    for (std::uint64_t step = 0; AwaitTurn(step, 16); ++step) {
      tier_->OnSlotFree(freed_[random() % freed_.size()].load());
      tier_->OnSlotFree(static_cast<SlotIndex>(random() % kSlots));
    }
  }

  void ReadSlots() {
    std::mt19937_64 random(31);
    for (std::uint64_t step = 0; AwaitTurn(step, 2); ++step) {
      const auto first = static_cast<SlotIndex>(random() % (kSlots - 8));
      std::vector<SlotIndex> slots;
      for (SlotIndex i = 0; i < 8; ++i) slots.push_back(first + i);
      const PageHistory::Time began = history_.BeginRead();
      AwaitedFetch fetch(slots);
      tier_->Fetch(&fetch);
      ASSERT_EQ(fetch.Wait(), IoStatus::kOk);
      for (std::size_t i = 0; i < slots.size(); ++i) {
        ASSERT_EQ(history_.Check(slots[i], began, fetch.pages[i].data()), "");
      }
    }
  }

  // Each cgroup lives for some stores, and is stored to for a while after it is gone.
  void ChurnCgroups(CgroupId count) {
    std::mt19937_64 random(41);
    for (CgroupId id = kFirstShortLived; id < kFirstShortLived + count && !HasFailure(); ++id) {
      const CgroupId parent = kLasting[random() % kLasting.size()];
      // Some are met on the store path before they are placed, or never placed.
      auto& place = current_[random() % current_.size()];
      if (random() % 2 == 0) place.store(id);
      // The index of one that is gone is given out again when the shrinker has swept.
      if (random() % 8 != 0) {
        ASSERT_TRUE(Eventually([&] { return tier_->PlaceCgroup(id, parent); })) << id;
      }
      place.store(id);
      if (random() % 4 == 0) tier_->ConfigureCgroup(id, RandomSettings(random));
      tier_->StartManualWriteback({.bytes = 64 * kPageBytes, .cgroup = id});
      if (random() % 4 == 0) std::this_thread::yield();
      tier_->RemoveCgroup(id);
      ++removed_;
      turn_.fetch_add(1);
      turn_.notify_all();
    }
    for (auto& place : current_) place.store(kLasting[1]);
  }

  // Limits are met at times, and never without a way out: writeback stays on where they are.
  static GroupSettings RandomSettings(std::mt19937_64& random) {
    GroupSettings settings;
    if (random() % 2 == 0) settings.pool_limit_bytes = kGroupLimitMin * (1 + random() % 8);
    if (random() % 2 == 0) settings.compressor = Compressor{Codec::kZstd, 1};
    return settings;
  }

  void ChangeSettings() {
    std::mt19937_64 random(51);
    for (std::uint64_t step = 0; AwaitTurn(step, 1); ++step) {
      const CgroupId id = kLasting[random() % kLasting.size()];
      tier_->ConfigureCgroup(id, RandomSettings(random));
      const bool lz4 = random() % 2 == 0;
      tier_->SetCompressor({lz4 ? Codec::kLz4 : Codec::kZstd, 1 + static_cast<int>(random() % 3)});
      if (random() % 2 == 0) {
        tier_->SetRecompression(Compressor{Codec::kZstd, 3});
      } else {
        tier_->SetRecompression(std::nullopt);
      }
      const std::uint64_t pool_bytes = (std::uint64_t{4} << 20) + random() % (2 << 20);
      ASSERT_TRUE(
          tier_->SetLimits(pool_bytes, 50 + static_cast<std::uint32_t>(random() % 50)).ok());
      // Seldom: each failure puts writeback off for longer, and a run has a few dozen batches.
      remote_.FailPuts(random() % 16 == 0 ? PutResult::kUnavailable : PutResult::kAcked);
      tier_->StartManualWriteback({.bytes = 256 * kPageBytes});
      tier_->WriteBackProactively(id, 100, 0);
      if (random() % 8 == 0) tier_->CgroupStats();
    }
    remote_.FailPuts(PutResult::kAcked);
  }

  void Run(CgroupId cgroups) {
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kStorers; ++i) threads.emplace_back([this, i] { UseSlots(i); });
    threads.emplace_back([this] { ReadSlots(); });
    threads.emplace_back([this] { DropFreed(); });
    threads.emplace_back([this] { ChangeSettings(); });
    ChurnCgroups(cgroups);
    turn_.store(kNoMoreTurns);
    turn_.notify_all();
    for (std::thread& thread : threads) thread.join();
  }

  // --- What must be true in the end

  void ExpectRightPages() {
    const PageHistory::Time began = history_.BeginRead();
    for (SlotIndex slot = 0; slot < kSlots; ++slot) {
      ASSERT_EQ(history_.Check(slot, began, Read(slot).data()), "");
    }
  }

  // Only the tree that stays, and every page in it: no entry is lost between two lists.
  void ExpectRightGroups() {
    // Met on the store path after they were gone, without ever having been placed.
    for (const GroupStats& group : tier_->CgroupStats()) {
      if (!group.placed) tier_->RemoveCgroup(group.id);
    }
    std::vector<CgroupId> ids;
    for (const GroupStats& group : tier_->CgroupStats()) ids.push_back(group.id);
    EXPECT_EQ(ids, (std::vector<CgroupId>{kUnknownCgroup, 11, 12, 13, 14}));
    for (const CgroupId id : kLasting) ASSERT_TRUE(tier_->ConfigureCgroup(id, {}));
    ASSERT_TRUE(Eventually([this] { return tier_->ManualWritebackProgress().finished; }));
    WriteBack(kSlots);
    ASSERT_TRUE(Eventually([this] {
      const PageCounts pages = tier_->Stats().pages;
      return pages.local == 0 && pages.writing == 0;
    }));
    EXPECT_EQ(tier_->Stats().pool_entry_bytes, 0u);
    for (const GroupStats& group : tier_->CgroupStats()) {
      EXPECT_EQ(group.tree_pool_bytes, 0u) << group.id;
      EXPECT_EQ(group.pool_bytes, 0u) << group.id;
    }
    tier_->Invalidate(0, kSlots);
    for (const GroupStats& group : tier_->CgroupStats()) {
      EXPECT_EQ(group.pages.held(), 0u) << group.id;
      EXPECT_EQ(group.tree_remote_pages, 0u) << group.id;
    }
  }

  PageHistory history_{kSlots};
  std::array<std::atomic<CgroupId>, 4> current_{};  // whom storers store for
  std::array<std::atomic<SlotIndex>, 64> freed_{};
  std::atomic<std::uint64_t> turn_{0};  // cgroups that have come and gone so far
  std::uint64_t removed_ = 0;
};

TEST_F(TierGroupRace, TenThousandCgroupsComeAndGoAmongStoresFreesAndWriteback) {
  StartAll();
  Run(10000);
  ASSERT_FALSE(HasFailure());
  EXPECT_EQ(removed_, 10000u);
  EXPECT_GT(Count(Counter::early_frees), 0u);
  EXPECT_GT(Count(Counter::early_frees_kept), 0u);
  EXPECT_GT(Count(Counter::written_back_pages), 0u);
  EXPECT_GT(Count(Counter::cgroup_limit_hit), 0u);
  EXPECT_EQ(Count(Counter::stores_unattributed), 0u);
  ExpectRightPages();
  // The last limit may be lower than the one before.
  ASSERT_TRUE(Eventually([this] {
    const TierStats stats = tier_->Stats();
    return stats.pool_used_bytes <= stats.pool_limit_bytes;
  }));
  ExpectInvariants();
  ExpectRightGroups();
}

class TierIdleGroups : public TierFixture {
 protected:
  static constexpr CgroupId kMany = kSanitized ? 200 : 4000;
  // A sanitizer has memory of its own.
  static constexpr std::uint64_t kGrowthMax = std::uint64_t{1} << (kSanitized ? 40 : 20);

  static std::uint64_t ResidentBytes() {
    std::ifstream statm("/proc/self/statm");
    std::uint64_t size = 0;
    std::uint64_t resident = 0;
    statm >> size >> resident;
    return resident * kPageBytes;
  }
  void ComeAndGo(CgroupId first) {
    for (CgroupId id = first; id < first + kMany; ++id) {
      ASSERT_TRUE(Eventually([&] { return tier_->PlaceCgroup(id, kUnknownCgroup); })) << id;
    }
    ASSERT_EQ(tier_->CgroupStats().size(), kMany + 1);
    for (CgroupId id = first; id < first + kMany; ++id) tier_->RemoveCgroup(id);
    ASSERT_EQ(tier_->CgroupStats().size(), 1u);
  }
};

TEST_F(TierIdleGroups, LeaveNothingBehind) {
  Start();
  // What the allocator keeps for the next of the same size, it has after two rounds.
  for (CgroupId round = 0; round < 2; ++round) ComeAndGo(1000 + round * kMany);
  const std::uint64_t before = ResidentBytes();
  for (CgroupId round = 2; round < 7; ++round) ComeAndGo(1000 + round * kMany);
  EXPECT_LT(ResidentBytes(), before + kGrowthMax);
}

}  // namespace
}  // namespace farswap::tier
