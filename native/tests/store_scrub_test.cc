// Damage on the disk: what the scrub, compactions and discards do about it, on a real RocksDB.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "sanitized.h"
#include "store/rocks.h"
#include "store_damage.h"
#include "store_objects.h"
#include "waiter.h"

namespace farswap::store {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

class ScrubTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kObjects = 600;  // of one shard

  void SetUp() override {
    Start();
    opened_->Open();
    for (std::uint64_t key = 0; key < kObjects; ++key) {
      ASSERT_EQ(opened_->PutOne(key, 5), ObjectStatus::kOk);
    }
  }
  void Start(ScrubConfig scrub = {}) {
    opened_ = std::make_unique<OpenedStore>(
        PageStoreConfig{.path = directory_.Path("s"),
                        .capacity_bytes = 64 * kMiB,
                        .block_cache_bytes = kMiB,
                        .scrub = scrub,
                        .clock = [this] { return std::chrono::nanoseconds(now_.load()); }});
  }
  // The store is closed meanwhile, and then has the volume of before.
  void Restart(const std::function<void()>& meanwhile, ScrubConfig scrub = {}) {
    const OpenedVolume volume = opened_->volume;
    opened_.reset();
    meanwhile();
    Start(scrub);
    opened_->volume = volume;
  }
  void Damage(std::uint64_t key) {
    Restart([&] { ASSERT_TRUE(DamageBytes(directory_.Path("s"), ObjectBytes(key, 5, 100))); });
  }
  // While the store is closed.
  void ChangeRecords(const std::function<void(Rocks*)>& change) {
    Room room(directory_.Path("s"), 64 * kMiB);
    bool unwritable = false;
    auto rocks =
        OpenRocks({directory_.Path("s"), kMiB, &room, rocksdb::FileSystem::Default()}, &unwritable);
    ASSERT_TRUE(rocks.ok()) << rocks.error().message;
    change(rocks.value().get());
    ASSERT_TRUE(rocks.value()->db->Flush({}, rocks.value()->pages).ok());
  }
  // Inverts a byte of the largest file's blocks of records.
  void DamageData(std::uint64_t random) {
    std::filesystem::path largest;
    std::uintmax_t size = 0;
    for (const auto& file : std::filesystem::directory_iterator(directory_.Path("s"))) {
      if (file.path().extension() != ".sst" || file.file_size() <= size) continue;
      size = file.file_size();
      largest = file.path();
    }
    std::fstream stream(largest, std::ios::binary | std::ios::in | std::ios::out);
    const std::string content(std::istreambuf_iterator<char>(stream), {});
    // The filter, the index and the properties are after these.
    std::size_t end = 0;
    for (std::uint64_t key = kObjects; end == 0 && key-- > 0;) {
      const std::size_t at = content.rfind(ObjectBytes(key, 5, 100));
      end = at == std::string::npos ? 0 : at;
    }
    const std::size_t at = random % end;
    stream.clear();
    stream.seekp(static_cast<std::streamoff>(at));
    stream.put(static_cast<char>(~content[at]));
  }
  // The server runs for that long.
  void Run(std::chrono::nanoseconds span) {
    for (auto left = span; left.count() > 0; left -= RunningClock::kStepMax) {
      now_ += std::chrono::nanoseconds(RunningClock::kStepMax).count();
      opened_->store->Tick();
    }
  }

  void Scrub() {
    const std::uint64_t passes = opened_->Stat("scrub_passes");
    ASSERT_TRUE(opened_->store->Scrub().ok());
    ASSERT_TRUE(Eventually([&] { return opened_->Stat("scrub_passes") == passes + 1; }));
  }
  std::vector<DamagedShards> Reports() {
    return opened_->store->DamageOf(opened_->volume.volume_id);
  }
  std::uint64_t CountReadable(std::uint64_t version = 5) {
    std::uint64_t readable = 0;
    for (std::uint64_t key = 0; key < kObjects; ++key) {
      readable += opened_->GetOne(key).version == version;
    }
    return readable;
  }

  ScratchDirectory directory_;
  std::atomic<std::int64_t> now_{1'000'000'000};
  std::unique_ptr<OpenedStore> opened_;
};

TEST_F(ScrubTest, PassReadsAllRecordsAndFindsNothing) {
  Scrub();
  EXPECT_EQ(opened_->Stat("scrub_records"), kObjects);
  EXPECT_EQ(opened_->Stat("scrub_bytes"), opened_->store->used_bytes());
  EXPECT_EQ(opened_->Stat("scrub_pass_bytes"), opened_->store->used_bytes());
  EXPECT_EQ(opened_->Stat("scrub_ended_ago_seconds"), 0u);
  Run(minutes(2));
  EXPECT_TRUE(Eventually([&] { return opened_->Stat("scrub_ended_ago_seconds") == 120; }));
  EXPECT_EQ(opened_->Stat("scrub_damaged_shards"), 0u);
  EXPECT_TRUE(Reports().empty());
}

TEST_F(ScrubTest, DamagedBlockIsEmptiedAndItsShardReportedUntilItsHostHasComparedIt) {
  const std::uint64_t used = opened_->store->used_bytes();
  Damage(7);
  EXPECT_EQ(opened_->GetOne(7).status, ObjectStatus::kCorrupt);
  Scrub();
  EXPECT_EQ(opened_->GetOne(7).status, ObjectStatus::kNotFound);
  const std::uint64_t left = CountReadable();
  EXPECT_LT(left, kObjects - 1) << "a block has several records";
  EXPECT_GT(left, kObjects / 2);
  EXPECT_EQ(opened_->Stat("pages"), left);
  EXPECT_EQ(opened_->store->used_bytes(), left * RecordBytes(100));
  EXPECT_EQ(opened_->Stat("scrub_damaged_blocks"), 1u);
  EXPECT_EQ(opened_->Stat("scrub_damaged_records"), kObjects - left);
  ASSERT_EQ(Reports().size(), 1u);
  EXPECT_EQ(Reports()[0].first, 0u);
  EXPECT_EQ(Reports()[0].last, 0u);
  Restart([] {});
  ASSERT_EQ(Reports().size(), 1u) << "over a restart";
  Scrub();
  EXPECT_EQ(opened_->Stat("scrub_damaged_blocks"), 0u) << "the damage is gone";
  ASSERT_EQ(Reports().size(), 1u) << "but the objects are still missing";
  for (std::uint64_t key = 0; key < kObjects; ++key) opened_->PutOne(key, 5);
  EXPECT_EQ(CountReadable(), kObjects);
  EXPECT_EQ(opened_->store->used_bytes(), used);
  opened_->store->EndDamage(opened_->volume.volume_id, Reports()[0].report, kObjects - left);
  EXPECT_TRUE(Reports().empty());
  EXPECT_EQ(opened_->Stat("scrub_repaired_objects"), kObjects - left);
  Restart([] {});
  EXPECT_TRUE(Reports().empty());
}

TEST_F(ScrubTest, DamageAfterAComparisonIsReportedByItself) {
  Damage(7);
  Scrub();
  const std::uint64_t before = Reports().at(0).report;
  Damage(kObjects - 1);
  Scrub();
  ASSERT_EQ(Reports().size(), 1u);
  EXPECT_NE(Reports()[0].report, before);
  opened_->store->EndDamage(opened_->volume.volume_id, before, 0);
  EXPECT_EQ(Reports().size(), 1u) << "the host compared the shard before the second damage";
}

TEST_F(ScrubTest, PassGoesOnAfterARestart) {
  // No time for a second part.
  const ScrubConfig slow{.interval = hours(1), .bytes_per_second_min = 1, .bytes_at_once = 8192};
  Restart([] {}, slow);
  ASSERT_TRUE(Eventually([&] { return opened_->Stat("scrub_records") > 0; }));
  const std::uint64_t before = opened_->Stat("scrub_records");
  EXPECT_LT(before, kObjects);
  Restart([] {}, {.interval = hours(1)});
  ASSERT_TRUE(Eventually([&] { return opened_->Stat("scrub_passes") == 1; }));
  EXPECT_EQ(opened_->Stat("scrub_records"), kObjects - before);
  EXPECT_EQ(opened_->Stat("scrub_pass_bytes"), opened_->store->used_bytes());
}

TEST_F(ScrubTest, PassBeginsOnceInAnIntervalOfRunningTime) {
  Restart([] {}, {.interval = hours(1)});
  ASSERT_TRUE(Eventually([&] { return opened_->Stat("scrub_passes") == 1; }));
  const auto ended_ago = [&] { return opened_->Stat("scrub_ended_ago_seconds"); };
  Run(minutes(59));
  ASSERT_TRUE(Eventually([&] { return ended_ago() >= 58 * 60; }));
  now_ += std::chrono::nanoseconds(hours(10'000)).count();  // the clock is set
  opened_->store->Tick();
  Restart([] {}, {.interval = hours(1)});
  now_ -= std::chrono::nanoseconds(hours(20'000)).count();
  opened_->store->Tick();
  const std::uint64_t before = ended_ago();
  Run(seconds(2));
  ASSERT_TRUE(Eventually([&] { return ended_ago() > before; }));
  EXPECT_EQ(opened_->Stat("scrub_passes"), 1u);
  Run(minutes(2));
  ASSERT_TRUE(Eventually([&] { return opened_->Stat("scrub_passes") == 2; }));
}

TEST_F(ScrubTest, DamagedRecordInASoundBlockIsDeletedAndReported) {
  const std::uint64_t volume_id = opened_->volume.volume_id;
  Restart([&] {
    ChangeRecords([&](Rocks* rocks) {
      const RecordKey key = EncodeRecordKey(volume_id, 7);
      std::string value;
      ASSERT_TRUE(rocks->db->Get({}, rocks->pages, AsSlice(key), &value).ok());
      value.back() = static_cast<char>(~value.back());
      ASSERT_TRUE(rocks->db->Put({}, rocks->pages, AsSlice(key), value).ok());
    });
  });
  Scrub();
  EXPECT_EQ(opened_->GetOne(7).status, ObjectStatus::kNotFound);
  EXPECT_EQ(CountReadable(), kObjects - 1);
  EXPECT_EQ(opened_->Stat("pages"), kObjects - 1);
  EXPECT_EQ(opened_->store->used_bytes(), (kObjects - 1) * RecordBytes(100));
  EXPECT_EQ(opened_->Stat("scrub_damaged_records"), 1u);
  EXPECT_EQ(Reports().size(), 1u);
}

TEST_F(ScrubTest, DamageOfSeveralVolumesIsReportedToEach) {
  const OpenedVolume first = opened_->volume;
  opened_->Open('b', "other");
  const OpenedVolume second = opened_->volume;
  // Both volumes are in one block.
  for (std::uint64_t key = 4096; key < 4104; ++key) opened_->PutOne(key, 5);
  Damage(4098);
  Scrub();
  opened_->volume = second;
  ASSERT_EQ(Reports().size(), 1u);
  EXPECT_TRUE(Reports()[0].first <= 1 && Reports()[0].last >= 1);
  const auto got = opened_->GetOne(4098);
  EXPECT_EQ(got.status, ObjectStatus::kNotFound);
  opened_->volume = first;
  const std::uint64_t left = CountReadable();
  EXPECT_TRUE(left == kObjects || !Reports().empty());
  EXPECT_EQ(opened_->Stat("pages"), left);
}

TEST_F(ScrubTest, DiscardOfAnUnreadableObjectIsRepeatedUntilItsBlockIsRepaired) {
  Damage(7);
  ASSERT_EQ(opened_->GetOne(7).status, ObjectStatus::kCorrupt);
  const std::vector<DiscardItem> items = {{7, 4}, {kObjects - 1, 5}};
  std::uint64_t discarded = 0;
  const auto discard = [&] {
    return opened_->store->Discard(opened_->volume.volume_id, opened_->volume.epoch, items,
                                   &discarded);
  };
  EXPECT_FALSE(discard().ok()) << "version 4 is older than what may be there";
  EXPECT_EQ(discarded, 1u) << "the others are discarded";
  ASSERT_TRUE(Eventually([&] { return discard().ok(); }));
  EXPECT_EQ(opened_->GetOne(7).status, ObjectStatus::kNotFound);
  EXPECT_EQ(Reports().size(), 1u) << "its host is to compare it";
  EXPECT_EQ(opened_->Stat("pages"), CountReadable());
}

TEST_F(ScrubTest, FileWithARangeOfADeletedVolumeIsRepaired) {
  const std::uint64_t volume_id = opened_->volume.volume_id;
  for (const std::uint64_t deleted : {volume_id - 1, volume_id + 1}) {
    Restart([&] {
      ChangeRecords([&](Rocks* rocks) {
        ASSERT_TRUE(rocks->db
                        ->DeleteRange({}, rocks->pages, EncodeVolumeKey(deleted),
                                      EncodeVolumeKey(deleted + 1))
                        .ok());
        rocksdb::CompactRangeOptions options;
        options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
        ASSERT_TRUE(rocks->db->CompactRange(options, rocks->pages, nullptr, nullptr).ok());
        for (std::uint64_t key = 0; key < kObjects; ++key) {
          const RecordKey record_key = EncodeRecordKey(volume_id, key);
          std::string value;
          rocks->db->Get({}, rocks->pages, AsSlice(record_key), &value).PermitUncheckedError();
          ASSERT_TRUE(rocks->db->Put({}, rocks->pages, AsSlice(record_key), value).ok());
        }
        ASSERT_TRUE(rocks->db
                        ->DeleteRange({}, rocks->pages, EncodeVolumeKey(deleted),
                                      EncodeVolumeKey(deleted + 1))
                        .ok());
      });
      ASSERT_TRUE(DamageBytes(directory_.Path("s"), ObjectBytes(7, 5, 100)));
    });
    Scrub();
    EXPECT_GT(opened_->Stat("scrub_damaged_blocks"), 0u);
    EXPECT_EQ(opened_->Stat("scrub_unreadable"), 0u);
    for (std::uint64_t key = 0; key < kObjects; ++key) opened_->PutOne(key, 5);
    EXPECT_EQ(CountReadable(), kObjects);
  }
}

TEST_F(ScrubTest, CompactionGetsPastADamagedBlock) {
  Damage(7);
  std::uint64_t version = 6;
  ASSERT_TRUE(Eventually([&] {
    for (std::uint64_t key = 4096; key < 4096 + 512; ++key) {
      EXPECT_EQ(opened_->PutOne(key, version, 4000), ObjectStatus::kOk)
          << opened_->store->disk_problem();
    }
    ++version;
    return opened_->Stat("scrub_damaged_blocks") == 1;
  }));
  EXPECT_EQ(opened_->store->disk_problem(), "");
  Restart([&] {
    ChangeRecords([](Rocks* rocks) {
      EXPECT_TRUE(rocks->db->CompactRange({}, rocks->pages, nullptr, nullptr).ok());
    });
  });
  EXPECT_GT(CountReadable(), kObjects / 2);
  EXPECT_EQ(opened_->Stat("pages"), CountReadable() + 512);
}

// Of every kind: keys, lengths, values, restart points, checksums.
TEST_F(ScrubTest, DamageOfAnyByteOfABlockIsRepaired) {
  std::minstd_rand random(1);
  for (int round = 0; round < (kSanitized ? 10 : 60); ++round) {
    Restart([&] {
      // All records are in one file of the last level, or in one above it.
      ChangeRecords([&](Rocks* rocks) {
        rocksdb::CompactRangeOptions options;
        options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
        const auto compact = [&] {
          return round % 2 == 0 ||
                 rocks->db->CompactRange(options, rocks->pages, nullptr, nullptr).ok();
        };
        EXPECT_TRUE(compact());
      });
      for (int i = 0; i < 3; ++i) DamageData(random());
    });
    Scrub();
    EXPECT_EQ(opened_->Stat("scrub_unreadable"), 0u) << round;
    EXPECT_GT(opened_->Stat("scrub_damaged_blocks"), 0u) << round;
    ASSERT_FALSE(Reports().empty());
    std::uint64_t missing = 0;
    for (std::uint64_t key = 0; key < kObjects; ++key) {
      const auto got = opened_->GetOne(key);
      if (got.status == ObjectStatus::kOk) {
        ASSERT_EQ(got.bytes, ObjectBytes(key, 5, 100)) << round;
        continue;
      }
      ASSERT_EQ(got.status, ObjectStatus::kNotFound) << round;
      ++missing;
      ASSERT_EQ(opened_->PutOne(key, 5), ObjectStatus::kOk);
    }
    EXPECT_GT(missing, 0u) << round;
    for (const DamagedShards& shards : Reports()) {
      EXPECT_EQ(shards.first, 0u);
      opened_->store->EndDamage(opened_->volume.volume_id, shards.report, missing);
    }
  }
}

}  // namespace
}  // namespace farswap::store
