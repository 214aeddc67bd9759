// Placement of shards, the queue that survives connections, and backing off: no network.
#include <gtest/gtest.h>

#include <array>
#include <thread>
#include <vector>

#include "remote/backoff.h"
#include "remote/resend_queue.h"
#include "remote/shard_map.h"

namespace farswap::remote {
namespace {

using tier::kShardSlots;

TEST(ShardMap, ShardWithoutPageHasNoServer) {
  ShardMap map(10 * kShardSlots, 1);
  EXPECT_FALSE(map.MemberOf(0));
  EXPECT_FALSE(map.Place(0, nullptr, 0));
}

TEST(ShardMap, LastShardMayBePartial) {
  ShardMap map(kShardSlots + 1, 1);
  EXPECT_EQ(map.shards(), 2u);
  const Candidate only{0, 100};
  EXPECT_TRUE(map.Place(kShardSlots, &only, 1));
  EXPECT_FALSE(map.Place(2 * kShardSlots, &only, 1)) << "not on the device";
  EXPECT_FALSE(map.MemberOf(0xffffffffu));
}

TEST(ShardMap, BundlesAreWhereTheirSlotsAre) {
  ShardMap map(2 * kShardSlots, 1);
  const Candidate second{1, 100};
  ASSERT_EQ(map.Place(kShardSlots, &second, 1), 1);
  EXPECT_EQ(map.MemberOf(tier::BundleKeyOf(2 * kShardSlots - 1)), 1);
  EXPECT_FALSE(map.MemberOf(tier::BundleKeyOf(kShardSlots - 1)));
  EXPECT_FALSE(map.MemberOf(tier::BundleKeyOf(2 * kShardSlots))) << "not on the device";
}

TEST(ShardMap, ShardKeepsItsServerWhenAnotherBecomesEmptier) {
  ShardMap map(10 * kShardSlots, 1);
  const std::array<Candidate, 2> before = {{{0, 100}, {1, 50}}};
  ASSERT_EQ(map.Place(5, before.data(), 2), 0);
  const std::array<Candidate, 2> after = {{{0, 0}, {1, 1000}}};
  EXPECT_EQ(map.Place(kShardSlots - 1, after.data(), 2), 0);
  EXPECT_EQ(map.Place(kShardSlots, after.data(), 2), 1);
  EXPECT_EQ(map.ShardCount(0), 1u);
  EXPECT_EQ(map.ShardCount(1), 1u);
}

TEST(ShardMap, TwoChoicesPreferTheEmptierServer) {
  constexpr std::size_t kShards = 4000;
  ShardMap map(kShards * kShardSlots, 42);
  const std::array<Candidate, 4> servers = {{{0, 10}, {1, 20}, {2, 30}, {3, 40}}};
  for (std::size_t shard = 0; shard < kShards; ++shard) {
    map.Place(static_cast<tier::SlotIndex>(shard * kShardSlots), servers.data(), 4);
  }
  // Of the six pairs, the emptiest wins three, the next two, then one; the fullest wins none.
  EXPECT_EQ(map.ShardCount(0), 0u);
  EXPECT_NEAR(map.ShardCount(1), kShards / 6.0, kShards / 30.0);
  EXPECT_NEAR(map.ShardCount(2), kShards / 3.0, kShards / 30.0);
  EXPECT_NEAR(map.ShardCount(3), kShards / 2.0, kShards / 30.0);
}

TEST(ShardMap, SameSeedMakesTheSameChoices) {
  ShardMap one(100 * kShardSlots, 9);
  ShardMap two(100 * kShardSlots, 9);
  const std::array<Candidate, 3> servers = {{{0, 1}, {1, 1}, {2, 1}}};
  for (tier::SlotIndex shard = 0; shard < 100; ++shard) {
    EXPECT_EQ(one.Place(shard * kShardSlots, servers.data(), 3),
              two.Place(shard * kShardSlots, servers.data(), 3));
  }
}

TEST(ShardMap, RacingPlacementsOfAShardAgree) {
  constexpr std::size_t kShards = 2000;
  ShardMap map(kShards * kShardSlots, 3);
  std::array<std::vector<MemberIndex>, 2> seen;
  std::array<std::thread, 2> threads;
  for (MemberIndex t = 0; t < 2; ++t) {
    threads[t] = std::thread([&, t] {
      const Candidate mine{t, 1};
      for (std::size_t shard = 0; shard < kShards; ++shard) {
        seen[t].push_back(*map.Place(static_cast<tier::SlotIndex>(shard * kShardSlots), &mine, 1));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(seen[0], seen[1]);
  EXPECT_EQ(map.ShardCount(0) + map.ShardCount(1), kShards);
}

struct Item {
  Item* older = nullptr;
  Item* newer = nullptr;
  TimePoint expires;
  bool sent = false;
};

TEST(ResendQueue, SendsInOrderAndAgainAfterARewind) {
  ResendQueue<Item> queue;
  std::array<Item, 3> items;
  for (Item& item : items) queue.Append(&item);
  EXPECT_EQ(queue.oldest_unsent(), &items[0]);
  queue.MarkSent();
  queue.MarkSent();
  EXPECT_EQ(queue.oldest_unsent(), &items[2]);
  EXPECT_EQ(queue.sent_count(), 2u);
  queue.Remove(&items[0]);
  queue.Rewind();
  EXPECT_EQ(queue.oldest(), &items[1]);
  EXPECT_EQ(queue.oldest_unsent(), &items[1]);
  EXPECT_EQ(queue.sent_count(), 0u);
  EXPECT_FALSE(items[1].sent);
}

TEST(ResendQueue, RemovingTheOldestUnsentMovesOn) {
  ResendQueue<Item> queue;
  std::array<Item, 3> items;
  for (Item& item : items) queue.Append(&item);
  queue.Remove(&items[0]);
  EXPECT_EQ(queue.oldest_unsent(), &items[1]);
  queue.Remove(&items[2]);
  queue.Remove(&items[1]);
  EXPECT_EQ(queue.oldest(), nullptr);
  EXPECT_EQ(queue.oldest_unsent(), nullptr);
  queue.Append(&items[0]);
  EXPECT_EQ(queue.oldest_unsent(), &items[0]);
}

TEST(ResendQueue, GivesUpWhatHasExpiredOldestFirstSentOrNot) {
  ResendQueue<Item> queue;
  EXPECT_EQ(queue.expires(), kNever);
  EXPECT_EQ(queue.TakeExpired(kNever), nullptr);
  std::array<Item, 3> items;
  TimePoint at;
  for (Item& item : items) {
    item.expires = at += std::chrono::seconds(1);
    queue.Append(&item);
  }
  queue.MarkSent();
  EXPECT_EQ(queue.expires(), items[0].expires);
  EXPECT_EQ(queue.TakeExpired(items[1].expires), &items[0]);
  EXPECT_EQ(queue.sent_count(), 0u);
  EXPECT_EQ(queue.TakeExpired(items[1].expires), &items[1]);
  EXPECT_EQ(queue.TakeExpired(items[1].expires), nullptr);
  EXPECT_EQ(queue.oldest_unsent(), &items[2]);
  EXPECT_EQ(queue.TakeExpired(kNever), &items[2]);
}

TEST(Backoff, GrowsToItsLimitWithJitterAndStartsOver) {
  Backoff backoff(1);
  auto full = Backoff::kFirst;
  for (int attempt = 0; attempt < 20; ++attempt) {
    const auto wait = backoff.Next();
    EXPECT_LE(wait, full);
    EXPECT_GE(wait, full / 2);
    full = std::min(full * 2, Backoff::kMax);
  }
  EXPECT_EQ(full, Backoff::kMax);
  backoff.Reset();
  EXPECT_LE(backoff.Next(), Backoff::kFirst);
}

}  // namespace
}  // namespace farswap::remote
