// Pages of one open volume: versions, batches, capacity, limits, restarts.
#include <gtest/gtest.h>

#include <thread>

#include "store/page_store.h"
#include "store_objects.h"
#include "tier/bundle.h"

namespace farswap::store {
namespace {

class PageStoreTest : public ::testing::Test {
 protected:
  ScratchDirectory directory_;
};

TEST_F(PageStoreTest, StoredPageIsFetchedWithAllItsFields) {
  OpenedStore opened(directory_.Path("s"));
  ASSERT_EQ(opened.Open().status, OpenStatus::kOk);
  EXPECT_EQ(opened.PutOne(5, 3, 777), ObjectStatus::kOk);
  const auto page = opened.GetOne(5);
  EXPECT_EQ(page.status, ObjectStatus::kOk);
  EXPECT_EQ(page.version, 3u);
  EXPECT_EQ(page.bytes, ObjectBytes(5, 3, 777));
  EXPECT_EQ(opened.GetOne(6).status, ObjectStatus::kNotFound);
}

TEST_F(PageStoreTest, LowerVersionIsSupersededSameVersionIsIdempotent) {
  OpenedStore opened(directory_.Path("s"));
  opened.Open();
  EXPECT_EQ(opened.PutOne(5, 3), ObjectStatus::kOk);
  EXPECT_EQ(opened.PutOne(5, 3), ObjectStatus::kOk);
  EXPECT_EQ(opened.PutOne(5, 2, 500), ObjectStatus::kSuperseded);
  EXPECT_EQ(opened.GetOne(5).bytes, ObjectBytes(5, 3, 100));
  EXPECT_EQ(opened.PutOne(5, 4, 200), ObjectStatus::kOk);
  EXPECT_EQ(opened.GetOne(5).bytes, ObjectBytes(5, 4, 200));
  EXPECT_EQ(opened.Stat("pages"), 1u);
  EXPECT_EQ(opened.store->used_bytes(), RecordBytes(200));
}

TEST_F(PageStoreTest, PagesOfOneSlotInABatchTakeEffectInTheirOrder) {
  OpenedStore opened(directory_.Path("s"));
  opened.Open();
  const std::string one = ObjectBytes(9, 1, 100);
  const std::string two = ObjectBytes(9, 2, 300);
  const std::string other = ObjectBytes(8, 1, 50);
  const auto results =
      opened.PutAll({MakeObject(9, 1, one), MakeObject(8, 1, other), MakeObject(9, 2, two),
                     MakeObject(9, 1, one), MakeObject(9, 2, two)});
  EXPECT_EQ(results, (std::vector{ObjectStatus::kOk, ObjectStatus::kOk, ObjectStatus::kOk,
                                  ObjectStatus::kSuperseded, ObjectStatus::kOk}));
  EXPECT_EQ(opened.GetOne(9).bytes, two);
  EXPECT_EQ(opened.Stat("pages"), 2u);
  EXPECT_EQ(opened.store->used_bytes(), RecordBytes(300) + RecordBytes(50));
}

TEST_F(PageStoreTest, InvalidPagesAreRefusedOneByOne) {
  OpenedStore opened(directory_.Path("s"));
  opened.Open('a', "host", 100);
  const std::string bytes = ObjectBytes(1, 1, 100);
  ObjectRecord bad = MakeObject(2, 1, bytes);
  bad.checksum ^= 1;
  const auto results = opened.PutAll({MakeObject(99, 1, bytes), bad, MakeObject(100, 1, bytes),
                                      MakeObject(std::uint64_t{1} << 32 | 1, 1, bytes)});
  EXPECT_EQ(results, (std::vector{ObjectStatus::kOk, ObjectStatus::kInvalid, ObjectStatus::kInvalid,
                                  ObjectStatus::kInvalid}));
  EXPECT_EQ(opened.Stat("puts_invalid"), 3u);
  EXPECT_EQ(opened.GetOne(2).status, ObjectStatus::kNotFound);
}

TEST_F(PageStoreTest, LimitsOfTheProtocolAreEnforced) {
  OpenedStore opened(directory_.Path("s"));
  opened.Open();
  const std::string bytes = ObjectBytes(1, 1, 10);
  opened.PutAll(std::vector<ObjectRecord>(256, MakeObject(1, 1, bytes)));
  EXPECT_EQ(opened.last, CallStatus::kOk);
  opened.PutAll(std::vector<ObjectRecord>(257, MakeObject(1, 2, bytes)));
  EXPECT_EQ(opened.last, CallStatus::kInvalid);
  opened.GetAll({});
  EXPECT_EQ(opened.last, CallStatus::kInvalid);
  opened.GetAll(std::vector<std::uint64_t>(64, 1));
  EXPECT_EQ(opened.last, CallStatus::kOk);
  opened.GetAll(std::vector<std::uint64_t>(65, 1));
  EXPECT_EQ(opened.last, CallStatus::kInvalid);
  std::uint64_t discarded = 0;
  const std::vector<DiscardItem> items(4097, DiscardItem{1, 1});
  const auto discard = [&](std::size_t count) {
    return opened.store
        ->Discard(opened.volume.volume_id, opened.volume.epoch, std::span(items).first(count),
                  &discarded)
        .value();
  };
  EXPECT_EQ(discard(4097), CallStatus::kInvalid);
  EXPECT_EQ(opened.GetOne(1).status, ObjectStatus::kOk);
  EXPECT_EQ(discard(4096), CallStatus::kOk);
  EXPECT_EQ(discarded, 1u);
}

TEST_F(PageStoreTest, FetchAnswersEverySlotAlsoRepeatedAndOutOfRangeOnes) {
  OpenedStore opened(directory_.Path("s"));
  opened.Open();
  opened.PutOne(1, 1);
  opened.PutOne(3, 1);
  const auto got = opened.GetAll({3, 1, 2, 3, std::uint64_t{1} << 40});
  EXPECT_EQ(got[0].bytes, ObjectBytes(3, 1, 100));
  EXPECT_EQ(got[1].bytes, ObjectBytes(1, 1, 100));
  EXPECT_EQ(got[2].status, ObjectStatus::kNotFound);
  EXPECT_EQ(got[3].bytes, ObjectBytes(3, 1, 100));
  EXPECT_EQ(got[4].status, ObjectStatus::kNotFound);
}

TEST_F(PageStoreTest, DiscardSparesHigherVersions) {
  OpenedStore opened(directory_.Path("s"));
  opened.Open();
  opened.PutOne(1, 5);
  opened.PutOne(2, 5);
  opened.PutOne(3, 5);
  const std::vector<DiscardItem> items = {{1, 4}, {2, 5}, {3, 1}, {3, 6}, {4, 9}};
  std::uint64_t discarded = 0;
  auto status =
      opened.store->Discard(opened.volume.volume_id, opened.volume.epoch, items, &discarded);
  EXPECT_EQ(status.value(), CallStatus::kOk);
  EXPECT_EQ(discarded, 2u);
  EXPECT_EQ(opened.GetOne(1).status, ObjectStatus::kOk);
  EXPECT_EQ(opened.GetOne(2).status, ObjectStatus::kNotFound);
  EXPECT_EQ(opened.GetOne(3).status, ObjectStatus::kNotFound);
  EXPECT_EQ(opened.store->used_bytes(), RecordBytes(100));
}

TEST_F(PageStoreTest, FullStoreRefusesGrowthButTakesOverwritesThatDoNotGrow) {
  const std::uint64_t capacity = 10 * RecordBytes(100);
  OpenedStore opened(directory_.Path("s"), capacity);
  opened.Open();
  for (std::uint64_t slot = 0; slot < 10; ++slot) {
    EXPECT_EQ(opened.PutOne(slot, 1), ObjectStatus::kOk);
  }
  EXPECT_EQ(opened.store->used_bytes(), capacity);
  EXPECT_EQ(opened.PutOne(10, 1), ObjectStatus::kFull);
  EXPECT_EQ(opened.PutOne(5, 2, 101), ObjectStatus::kFull);
  EXPECT_EQ(opened.GetOne(5).version, 1u);
  EXPECT_EQ(opened.PutOne(5, 2, 100), ObjectStatus::kOk);
  EXPECT_EQ(opened.PutOne(6, 2, 40), ObjectStatus::kOk);
  EXPECT_EQ(opened.PutOne(5, 3, 160), ObjectStatus::kOk);
  EXPECT_EQ(opened.PutOne(5, 4, 161), ObjectStatus::kFull);
  EXPECT_EQ(opened.store->used_bytes(), capacity);
  EXPECT_EQ(opened.Stat("puts_full"), 3u);
}

TEST_F(PageStoreTest, BundlesCountByTheirBytesAndOnlyThoseOfTheDeviceAreTaken) {
  OpenedStore opened(directory_.Path("s"), 100 << 10);
  opened.Open('a', "host", 100);
  const std::uint64_t last = tier::BundleKeyOf(99);
  const std::string bytes = BundleBytes(last - 2, 1, tier::kBundleBytesMax);
  const std::string other = BundleBytes(last - 1, 1, tier::kBundleBytesMax);
  const std::string more = BundleBytes(last, 1, 4096);
  const std::string beyond = BundleBytes(last + 1, 1, 100);
  const auto results =
      opened.PutAll({MakeBundle(last - 2, 1, bytes), MakeBundle(last - 1, 1, other),
                     MakeBundle(last, 1, more), MakeBundle(last + 1, 1, beyond)});
  EXPECT_EQ(results, (std::vector{ObjectStatus::kOk, ObjectStatus::kOk, ObjectStatus::kFull,
                                  ObjectStatus::kInvalid}));
  EXPECT_EQ(opened.store->used_bytes(), 2 * RecordBytes(tier::kBundleBytesMax));
  opened.Reopen();
  opened.Open('a', "host", 100);
  EXPECT_TRUE(opened.GetOne(last - 2).bytes == bytes);
  EXPECT_EQ(opened.GetOne(99).status, ObjectStatus::kNotFound);
  EXPECT_EQ(opened.store->used_bytes(), 2 * RecordBytes(tier::kBundleBytesMax));
}

TEST_F(PageStoreTest, PagesAndCountsSurviveAReopen) {
  OpenedStore opened(directory_.Path("s"));
  const auto first = opened.Open();
  for (std::uint64_t slot = 0; slot < 500; ++slot) opened.PutOne(slot, 1, 100 + slot);
  const std::uint64_t used = opened.store->used_bytes();
  opened.Reopen();
  EXPECT_EQ(opened.store->used_bytes(), used);
  EXPECT_EQ(opened.Stat("pages"), 500u);
  const auto second = opened.Open();
  EXPECT_EQ(second.volume_id, first.volume_id);
  EXPECT_EQ(second.epoch, first.epoch + 1);
  for (std::uint64_t slot = 0; slot < 500; ++slot) {
    ASSERT_EQ(opened.GetOne(slot).bytes, ObjectBytes(slot, 1, 100 + slot));
  }
}

TEST_F(PageStoreTest, ADrainSurvivesReopensUntilItIsEnded) {
  OpenedStore opened(directory_.Path("s"));
  EXPECT_EQ(opened.store->state(), ServerState::kActive);
  for (const bool draining : {true, true, false}) {
    ASSERT_TRUE(opened.store->SetDraining(draining).ok());
    for (int reopen = 0; reopen < 2; ++reopen) {
      const auto expected = draining ? ServerState::kDraining : ServerState::kActive;
      EXPECT_EQ(opened.store->state(), expected);
      EXPECT_EQ(opened.Stat("draining"), draining ? 1u : 0u);
      opened.Reopen();
    }
  }
}

TEST_F(PageStoreTest, RemovedServersAreKeptOverReopensAndTheOldestIsForgotten) {
  OpenedStore opened(directory_.Path("s"));
  EXPECT_FALSE(opened.store->RemoveServer(opened.store->uuid()).ok());
  std::vector<Id> wanted;
  for (std::uint8_t number = 0; number < 65; ++number) {
    const Id id{number};
    ASSERT_TRUE(opened.store->RemoveServer(id).ok());
    ASSERT_TRUE(opened.store->RemoveServer(id).ok()) << "repeated";
    if (number > 0) wanted.push_back(id);
  }
  EXPECT_EQ(opened.store->removed_servers(), wanted);
  opened.Reopen();
  EXPECT_EQ(opened.store->removed_servers(), wanted);
}

TEST_F(PageStoreTest, AFullServerThatDrainsReportsTheDrain) {
  OpenedStore opened(directory_.Path("s"), 4096);
  EXPECT_EQ(opened.store->state(), ServerState::kFull);
  ASSERT_TRUE(opened.store->SetDraining(true).ok());
  EXPECT_EQ(opened.store->state(), ServerState::kDraining);
}

TEST_F(PageStoreTest, HigherVersionWinsAmongConcurrentStreamsAndCountsStayExact) {
  OpenedStore opened(directory_.Path("s"));
  opened.Open();
  constexpr std::uint64_t kThreads = 4;
  constexpr std::uint64_t kVersions = 40;
  std::vector<std::thread> threads;
  for (std::uint64_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (std::uint64_t version = 1 + thread; version <= kVersions; version += kThreads) {
        std::vector<std::string> bytes;
        std::vector<ObjectRecord> pages;
        std::array<ObjectStatus, 64> results;
        for (std::uint64_t slot = 0; slot < 64; ++slot) {
          bytes.push_back(ObjectBytes(slot, version, 10 + version));
        }
        for (std::uint64_t slot = 0; slot < 64; ++slot) {
          pages.push_back(MakeObject(slot, version, bytes[slot]));
        }
        opened.store->Put(opened.volume.volume_id, opened.volume.epoch, pages, results);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::uint64_t slot = 0; slot < 64; ++slot) ASSERT_EQ(opened.GetOne(slot).version, kVersions);
  EXPECT_EQ(opened.Stat("pages"), 64u);
  EXPECT_EQ(opened.store->used_bytes(), 64 * RecordBytes(10 + kVersions));
}

TEST_F(PageStoreTest, SecondOpenOfAPathReportsThatItIsTaken) {
  OpenedStore opened(directory_.Path("s"));
  const auto second = PageStore::Open({directory_.Path("s"), kMiB, kMiB});
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().message.find("another farswap-server uses it"), std::string::npos);
}

TEST_F(PageStoreTest, MissingParentDirectoryIsAnError) {
  const auto opened = PageStore::Open({directory_.Path("no/such/parent"), kMiB, kMiB});
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.error().message.find("no/such/parent"), std::string::npos);
}

}  // namespace
}  // namespace farswap::store
