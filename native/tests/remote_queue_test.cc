// The queue that survives connections, and backing off: no network.
#include <gtest/gtest.h>

#include <vector>

#include "remote/backoff.h"
#include "remote/resend_queue.h"

namespace farswap::remote {
namespace {

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
