// The pool: sizes, sharing, draining of sparse slabs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <unordered_map>
#include <vector>

#include "tier/pool.h"

namespace farswap::tier {
namespace {

constexpr std::uint64_t kPoolBytes = std::uint64_t{8} << 20;

// A pool with its memory.
class OwnPool {
 public:
  Pool* operator->() { return &pool_; }
  Pool& operator*() { return pool_; }

 private:
  std::vector<std::byte> memory_ = std::vector<std::byte>(kPoolBytes);
  Pool pool_{memory_};
};

// --- Ages

constexpr std::uint32_t kTick = Entry::kTickSeconds;
constexpr std::uint32_t kLapSeconds = Entry::kTicksMax * kTick;  // of the time that an entry keeps

std::uint32_t AgeOf(std::uint32_t stored_boot_s, std::uint32_t now_boot_s) {
  Entry entry{};
  entry.Describe(kPageBytes, stored_boot_s);
  EXPECT_EQ(entry.object_bytes(), kPageBytes);
  return entry.AgeSeconds(now_boot_s);
}

TEST(EntryAge, IsTheTimeSinceItWasStoredToWithinATick) {
  for (const std::uint32_t stored : {0u, 1u, 1000u, kLapSeconds - 7, 3 * kLapSeconds + 2}) {
    for (const std::uint32_t age : {0u, 3u, 59u, 3600u, 30u * 86400}) {
      EXPECT_NEAR(AgeOf(stored, stored + age), age, kTick) << stored;
    }
  }
}

TEST(EntryAge, IsZeroWhenTheTimeWasLookedUpBeforeThePageWasStored) {
  for (const std::uint32_t stored : {100u, kLapSeconds, kLapSeconds + 30}) {
    for (std::uint32_t early = 1; early <= 60; ++early) {
      EXPECT_EQ(AgeOf(stored, stored - early), 0u) << stored << " - " << early;
    }
  }
}

TEST(EntryAge, RightAfterBootIsNeverMoreThanTheUptime) {
  for (std::uint32_t now = 0; now < 200; ++now) {
    for (std::uint32_t stored = 0; stored <= std::min(now + 60, 200u); ++stored) {
      EXPECT_LE(AgeOf(stored, now), now + kTick);
    }
  }
}

// --- Room

TEST(Pool, RefusesASizeThatCannotHoldEveryClass) {
  EXPECT_FALSE(Pool::CheckSize(Pool::kPoolBytesMin - 1).ok());
  EXPECT_TRUE(Pool::CheckSize(Pool::kPoolBytesMin).ok());
}

TEST(Pool, RoundingCostsLittleForEverySizeOverAFewHundredBytes) {
  for (std::size_t bytes = 1; bytes <= kPageBytes * 3 / 4; ++bytes) {
    const std::size_t entry = Pool::EntryBytes(bytes);
    EXPECT_GE(entry, bytes + sizeof(Entry));
    EXPECT_LE(entry, bytes + sizeof(Entry) + 32 + bytes / 9) << bytes;
  }
  EXPECT_EQ(Pool::EntryBytes(kPageBytes), kPageBytes + sizeof(Entry));
}

TEST(Pool, EntriesNeverOverlapAndKeepTheirBytes) {
  OwnPool pool;
  std::mt19937_64 random(7);
  struct Held {
    std::size_t bytes;
    unsigned char mark;
  };
  std::unordered_map<EntryRef, Held> held;
  std::vector<EntryRef> order;
  for (int step = 0; step < 200000; ++step) {
    if (order.empty() || random() % 100 < 52) {
      const std::size_t bytes = 1 + random() % kPageBytes;
      const EntryRef ref = pool->Allocate(bytes);
      if (ref == kNoEntry) continue;
      const auto mark = static_cast<unsigned char>(random());
      ASSERT_TRUE(held.emplace(ref, Held{bytes, mark}).second);
      std::memset(pool->Bytes(ref), mark, bytes);
      pool->At(ref)->slot.store(static_cast<SlotIndex>(step));
      order.push_back(ref);
    } else {
      std::swap(order[random() % order.size()], order.back());
      const EntryRef ref = order.back();
      order.pop_back();
      const Held had = held.at(ref);
      held.erase(ref);
      const std::vector<unsigned char> expected(had.bytes, had.mark);
      ASSERT_EQ(std::memcmp(pool->Bytes(ref), expected.data(), had.bytes), 0);
      pool->Free(ref);
    }
  }
  for (const auto& [ref, unused] : held) pool->Free(ref);
  EXPECT_EQ(pool->entry_bytes(), 0u);
  EXPECT_EQ(pool->used_slabs(), 0u);
}

TEST(Pool, IsFullOnlyWhenItsBytesAreUsed) {
  OwnPool pool;
  while (pool->Allocate(1000) != kNoEntry) {
  }
  EXPECT_GT(pool->entry_bytes(), pool->capacity_bytes() * 98 / 100);
  EXPECT_EQ(pool->free_slabs(), 0u);
}

TEST(Pool, OnlyASlightlyLargerClassHelpsOutWhenItsOwnIsFull) {
  OwnPool pool;
  const EntryRef slightly_larger = pool->Allocate(1150);
  const EntryRef much_larger = pool->Allocate(kPageBytes);
  ASSERT_NE(pool->Allocate(kPageBytes), kNoEntry);  // keeps the slab from becoming free
  while (pool->Allocate(1000) != kNoEntry) {
  }
  pool->Free(much_larger);
  EXPECT_EQ(pool->Allocate(1000), kNoEntry) << "it would waste three quarters of the entry";
  pool->Free(slightly_larger);
  EXPECT_NE(pool->Allocate(1000), kNoEntry);
}

TEST(Pool, DrainingASparseSlabFreesItForAnotherClass) {
  OwnPool pool;
  std::vector<EntryRef> refs;
  for (EntryRef ref; (ref = pool->Allocate(1000)) != kNoEntry;) {
    pool->At(ref)->slot.store(static_cast<SlotIndex>(refs.size()));
    refs.push_back(ref);
  }
  // Every second entry goes: no slab is empty, half of the bytes are.
  for (std::size_t i = 0; i < refs.size(); i += 2) pool->Free(refs[i]);
  ASSERT_EQ(pool->free_slabs(), 0u);
  ASSERT_EQ(pool->Allocate(3000), kNoEntry);
  Pool::Drain drain;
  ASSERT_TRUE(pool->BeginDrain(&drain));
  EXPECT_FALSE(drain.entries.empty());
  for (const EntryRef from : drain.entries) {
    const EntryRef to = pool->Allocate(1000);
    ASSERT_NE(to, kNoEntry);
    pool->At(to)->slot.store(pool->At(from)->slot.load());
    pool->Free(from);
  }
  pool->EndDrain(drain);
  EXPECT_EQ(pool->free_slabs(), 1u);
  EXPECT_NE(pool->Allocate(3000), kNoEntry);
}

TEST(Pool, ThreadsShareItWithoutLosingBytes) {
  OwnPool pool;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&pool, t] {
      std::mt19937_64 random(t);
      std::vector<std::pair<EntryRef, std::uint64_t>> mine;
      for (int step = 0; step < 20000; ++step) {
        if (mine.size() < 200 && random() % 2 == 0) {
          const EntryRef ref = pool->Allocate(16 + random() % 2000);
          if (ref == kNoEntry) continue;
          const std::uint64_t mark = random();
          std::memcpy(pool->Bytes(ref), &mark, sizeof(mark));
          pool->At(ref)->slot.store(t);
          mine.emplace_back(ref, mark);
        } else if (!mine.empty()) {
          std::uint64_t mark;
          std::memcpy(&mark, pool->Bytes(mine.back().first), sizeof(mark));
          ASSERT_EQ(mark, mine.back().second);
          pool->Free(mine.back().first);
          mine.pop_back();
        }
      }
      for (const auto& [ref, unused] : mine) pool->Free(ref);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool->entry_bytes(), 0u);
}

}  // namespace
}  // namespace farswap::tier
