// Objects that wait for their repair: what is taken together, and what is dropped.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "remote/repair_queue.h"

namespace farswap::remote {
namespace {

using tier::kShardSlots;

TEST(RepairQueue, TakesWhatGoesTogetherAndNothingTwice) {
  RepairQueue queue;
  const auto add = [&](tier::ObjectKey key, MemberIndex member) { queue.Add({key, member, 9}); };
  for (int i = 0; i < 2; ++i) {
    add(1, 5);
    add(2, 6);
    add(kShardSlots, 5);
    add(3, 5);
  }
  auto batch = queue.Begin();
  ASSERT_TRUE(batch);
  EXPECT_EQ(batch->keys, (std::vector<std::uint64_t>{1, 3}));
  EXPECT_FALSE(queue.Begin()) << "one at a time";
  add(1, 5);
  queue.End(/*again=*/true);
  EXPECT_EQ(queue.Begin()->keys, (std::vector<std::uint64_t>{1, 3}));
  queue.End(/*again=*/false);
  EXPECT_EQ(queue.Begin()->keys, std::vector<std::uint64_t>{2});
  queue.End(/*again=*/false);
  EXPECT_EQ(queue.Begin()->keys, std::vector<std::uint64_t>{kShardSlots});
  queue.End(/*again=*/false);
  EXPECT_FALSE(queue.Begin());
  for (std::size_t i = 0; i < 2 * RepairQueue::kObjectsMax; ++i) add(i % kShardSlots, 5);
  EXPECT_EQ(queue.Begin()->keys.size(), RepairQueue::kObjectsMax);
}

}  // namespace
}  // namespace farswap::remote
