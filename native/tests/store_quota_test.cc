// Quotas of volumes, and the part of the capacity that is only for copies.
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "store/page_store.h"
#include "store_objects.h"

namespace farswap::store {
namespace {

constexpr std::size_t kBytes = tier::kPageBytes;
constexpr std::uint64_t kRecord = RecordBytes(kBytes);

class QuotaTest : public ::testing::Test {
 protected:
  PageStoreConfig Config() const {
    return {.path = directory_.Path("s"),
            .capacity_bytes = 64 * kMiB,
            .block_cache_bytes = kMiB,
            .collect_garbage = false};
  }

  static void SetQuota(OpenedStore& opened, std::optional<std::uint64_t> quota) {
    ASSERT_TRUE(opened.store->SetQuota("host", "swap0", quota).ok());
  }

  static VolumeInfo InfoOf(const OpenedStore& opened) {
    for (const VolumeInfo& volume : opened.store->Volumes()) {
      if (volume.volume_id == opened.volume.volume_id) return volume;
    }
    return {};
  }

  ScratchDirectory directory_;
};

TEST_F(QuotaTest, VolumeAtItsQuotaGetsFullAndOthersDoNot) {
  OpenedStore opened(Config());
  opened.Open('b', "other");
  const OpenedVolume other = opened.volume;
  opened.Open('a');
  const OpenedVolume limited = opened.volume;
  SetQuota(opened, 3 * kRecord);
  for (std::uint64_t slot = 0; slot < 3; ++slot) {
    EXPECT_EQ(opened.store->StateFor(limited.volume_id), ServerState::kActive);
    EXPECT_EQ(opened.PutOne(slot, 1, kBytes), ObjectStatus::kOk);
  }
  EXPECT_EQ(opened.PutOne(3, 1, 1), ObjectStatus::kFull);
  EXPECT_EQ(opened.store->StateFor(limited.volume_id), ServerState::kQuotaReached);
  EXPECT_TRUE(InfoOf(opened).at_quota);
  EXPECT_EQ(opened.Stat("puts_over_quota"), 1u);
  EXPECT_EQ(opened.Stat("puts_full"), 0u);
  opened.volume = other;
  EXPECT_EQ(opened.store->StateFor(other.volume_id), ServerState::kActive);
  for (std::uint64_t slot = 0; slot < 10; ++slot) {
    EXPECT_EQ(opened.PutOne(slot, 1, kBytes), ObjectStatus::kOk);
  }
}

TEST_F(QuotaTest, LoweredQuotaDeletesNothingAndTakesUpdatesThatDoNotGrow) {
  OpenedStore opened(Config());
  opened.Open('a');
  for (std::uint64_t slot = 0; slot < 10; ++slot) opened.PutOne(slot, 1, 1000);
  SetQuota(opened, 5 * RecordBytes(1000));
  EXPECT_EQ(opened.PutOne(10, 1, 1000), ObjectStatus::kFull);
  EXPECT_EQ(opened.PutOne(1, 2, 1001), ObjectStatus::kFull);
  EXPECT_EQ(opened.PutOne(1, 2, 1000), ObjectStatus::kOk);
  EXPECT_EQ(opened.PutOne(2, 2, 900), ObjectStatus::kOk);
  for (std::uint64_t slot = 0; slot < 10; ++slot) {
    EXPECT_EQ(opened.GetOne(slot).status, ObjectStatus::kOk);
  }
  EXPECT_EQ(InfoOf(opened).bytes, 9 * RecordBytes(1000) + RecordBytes(900));
}

TEST_F(QuotaTest, DiscardsMakeRoomAgain) {
  OpenedStore opened(Config());
  opened.Open('a');
  SetQuota(opened, 2 * kRecord);
  opened.PutOne(0, 1, kBytes);
  opened.PutOne(1, 1, kBytes);
  ASSERT_EQ(opened.PutOne(2, 1, kBytes), ObjectStatus::kFull);
  std::uint64_t discarded = 0;
  const std::vector<DiscardItem> items = {{0, 1}};
  ASSERT_TRUE(
      opened.store->Discard(opened.volume.volume_id, opened.volume.epoch, items, &discarded).ok());
  EXPECT_EQ(opened.PutOne(2, 1, kBytes), ObjectStatus::kOk);
}

TEST_F(QuotaTest, QuotaOutlastsRestartsAndIncarnations) {
  PageStoreConfig config = Config();
  config.quota_default = 7 * kMiB;
  OpenedStore opened(config);
  opened.Open('a');
  EXPECT_EQ(InfoOf(opened).quota_bytes, 7 * kMiB);
  for (const std::uint64_t quota : {2 * kMiB, kNoQuota}) {
    const std::optional<std::uint64_t> shown =
        quota == kNoQuota ? std::nullopt : std::optional(quota);
    SetQuota(opened, quota);
    EXPECT_EQ(InfoOf(opened).quota_bytes, shown);
    opened.Reopen();
    EXPECT_EQ(InfoOf(opened).quota_bytes, shown);
    opened.Open('b');
    EXPECT_EQ(InfoOf(opened).quota_bytes, shown);
    ASSERT_TRUE(opened.store->DeleteVolume("host", "swap0", true).ok());
    opened.Reopen();
    opened.Open(quota == kNoQuota ? 'd' : 'c');
    EXPECT_EQ(InfoOf(opened).quota_bytes, shown);
  }
  SetQuota(opened, std::nullopt);
  EXPECT_EQ(InfoOf(opened).quota_bytes, 7 * kMiB);
  opened.Reopen();
  EXPECT_EQ(InfoOf(opened).quota_bytes, 7 * kMiB);
}

TEST_F(QuotaTest, DeviceThatWasNeverOpenHasNoQuota) {
  OpenedStore opened(Config());
  opened.Open('a');
  Outcome set = opened.store->SetQuota("host", "swap1", kMiB);
  ASSERT_FALSE(set.ok());
  EXPECT_EQ(set.error().message, "host/swap1 was never open here");
}

TEST_F(QuotaTest, ConcurrentPutsNeverExceedIt) {
  OpenedStore opened(Config());
  opened.Open('a');
  SetQuota(opened, 100 * kRecord);
  std::vector<std::thread> threads;
  for (std::uint64_t shard = 0; shard < 4; ++shard) {
    threads.emplace_back([&, shard] {
      for (std::uint64_t i = 0; i < 50; ++i) {
        const std::uint64_t slot = shard * tier::kShardSlots + i;
        const std::string bytes = ObjectBytes(slot, 1, kBytes);
        const ObjectRecord object = MakeObject(slot, 1, bytes);
        ObjectStatus result{};
        EXPECT_EQ(opened.store->Put(opened.volume.volume_id, opened.volume.epoch, {&object, 1},
                                    {&result, 1}),
                  CallStatus::kOk);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(InfoOf(opened).pages, 100u);
  EXPECT_EQ(InfoOf(opened).bytes, 100 * kRecord);
  EXPECT_EQ(opened.store->used_bytes(), 100 * kRecord);
  EXPECT_EQ(opened.Stat("puts_over_quota"), 100u);
}

TEST_F(QuotaTest, OnlyCopiesUseTheReserve) {
  PageStoreConfig config = Config();
  config.capacity_bytes = 10 * kRecord;
  config.reserve_bytes = 3 * kRecord;
  OpenedStore opened(config);
  opened.Open('a');
  for (std::uint64_t slot = 0; slot < 7; ++slot) {
    EXPECT_EQ(opened.store->state(), ServerState::kActive);
    EXPECT_EQ(opened.PutOne(slot, 1, kBytes), ObjectStatus::kOk);
  }
  EXPECT_EQ(opened.store->state(), ServerState::kFull);
  EXPECT_EQ(opened.PutOne(7, 1, kBytes), ObjectStatus::kFull);
  for (std::uint64_t slot = 10; slot < 14; ++slot) {
    const std::string bytes = ObjectBytes(slot, 1, kBytes);
    const ObjectRecord object = MakeObject(slot, 1, bytes);
    ObjectStatus result{};
    ObjectCount written;
    EXPECT_EQ(opened.store->PutCopies(opened.volume.volume_id, opened.volume.epoch,
                                      {.shard = 0, .generation = 1}, {&object, 1}, {&result, 1},
                                      &written),
              CallStatus::kOk);
    EXPECT_EQ(result, slot < 13 ? ObjectStatus::kOk : ObjectStatus::kFull);
  }
  EXPECT_EQ(opened.store->used_bytes(), 10 * kRecord);
  EXPECT_EQ(opened.PutOne(3, 2, kBytes), ObjectStatus::kOk) << "an update adds no bytes";
}

}  // namespace
}  // namespace farswap::store
