// Volumes that an operator deletes, or that expire: who may not use them any more, and the space
// that comes back.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "store/page_store.h"
#include "store_objects.h"
#include "waiter.h"

namespace farswap::store {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;

class DeleteTest : public ::testing::Test {
 protected:
  void Start(bool collect_garbage = false) {
    opened_ = std::make_unique<OpenedStore>(
        PageStoreConfig{.path = directory_.Path("s"),
                        .capacity_bytes = 256 * kMiB,
                        .block_cache_bytes = kMiB,
                        .collect_garbage = collect_garbage,
                        .leases = {.owner_lease = seconds(10), .expire_after = minutes(60)},
                        .clock = [this] { return now_; }});
  }

  // The server runs for that long.
  void Run(std::chrono::nanoseconds span) {
    for (auto left = span; left.count() > 0; left -= RunningClock::kStepMax) {
      now_ += RunningClock::kStepMax;
      opened_->store->Tick();
    }
  }

  std::string Refusal(const std::string& host, const std::string& device, bool force = false) {
    auto deleted = opened_->store->DeleteVolume(host, device, force);
    return deleted.ok() ? "" : deleted.error().message;
  }

  // Of RocksDB's log of writes.
  std::uintmax_t LogBytes() const {
    std::uintmax_t bytes = 0;
    for (const auto& file : std::filesystem::directory_iterator(directory_.Path("s"))) {
      std::error_code gone;
      const std::uintmax_t size = file.file_size(gone);
      bytes += !gone && file.path().extension() == ".log" ? size : 0;
    }
    return bytes;
  }

  ScratchDirectory directory_;
  std::chrono::nanoseconds now_{seconds(1)};
  std::unique_ptr<OpenedStore> opened_;
};

TEST_F(DeleteTest, LiveOwnerIsNamedAndKeepsItsVolumeUnlessForced) {
  Start();
  opened_->Open(MakeOpen('a', 'n'));
  opened_->PutOne(1, 1);
  const std::string refusal = Refusal("host", "swap0");
  EXPECT_NE(refusal.find("host.example (10.0.0.7)"), std::string::npos) << refusal;
  EXPECT_EQ(opened_->GetOne(1).status, ObjectStatus::kOk);
  auto forced = opened_->store->DeleteVolume("host", "swap0", true);
  ASSERT_TRUE(forced.ok());
  EXPECT_EQ(forced.value().pages, 1u);
  EXPECT_EQ(forced.value().bytes, RecordBytes(100));
  EXPECT_EQ(opened_->store->used_bytes(), 0u);
  EXPECT_EQ(opened_->Stat("volumes_deleted"), 1u);
}

TEST_F(DeleteTest, VolumeOfASilentOwnerNeedsNoForce) {
  Start();
  opened_->Open(MakeOpen('a', 'n'));
  Run(seconds(11));
  EXPECT_EQ(Refusal("host", "swap0"), "");
}

TEST_F(DeleteTest, OnlyAnOpenVolumeCanBeDeletedAndOnlyOnce) {
  Start();
  opened_->Open(MakeOpen('a', 'n'));
  EXPECT_EQ(Refusal("host", "swap1", true), "host/swap1 has no volume here");
  EXPECT_EQ(Refusal("hos", "tswap0", true), "hos/tswap0 has no volume here");
  EXPECT_EQ(Refusal("host", "swap0", true), "");
  EXPECT_EQ(Refusal("host", "swap0", true), "host/swap0 has no volume here");
}

TEST_F(DeleteTest, HostOfADeletedVolumeIsFencedAndReadsNoPageOfItsSuccessor) {
  Start();
  const OpenRequest silent = MakeOpen('a', 'n');
  const OpenedVolume before = opened_->Open(silent);
  opened_->PutOne(1, 1);
  Run(seconds(11));
  ASSERT_EQ(Refusal("host", "swap0"), "");
  opened_->Reopen();  // the deletion is on the disk
  const auto expect_fenced = [&] {
    EXPECT_EQ(opened_->store->OpenVolume(silent).status, OpenStatus::kFenced);
    EXPECT_NE(opened_->store->Hear(before.volume_id, before.epoch, {}), CallStatus::kOk);
    opened_->volume = before;
    opened_->GetOne(1);
    EXPECT_NE(opened_->last, CallStatus::kOk);
    opened_->PutOne(1, 9);
    EXPECT_NE(opened_->last, CallStatus::kOk);
  };
  expect_fenced();
  const OpenedVolume successor = opened_->Open(MakeOpen('b', 'm'));
  EXPECT_GT(successor.epoch, before.epoch);
  EXPECT_EQ(opened_->GetOne(1).status, ObjectStatus::kNotFound);
  opened_->PutOne(1, 5);
  expect_fenced();
  opened_->volume = successor;
  EXPECT_EQ(opened_->GetOne(1).version, 5u);
}

// --- Space --------------------------------------------------------------------------------------

class SpaceTest : public DeleteTest {
 protected:
  static constexpr std::uint64_t kObjectBytes = 4000;
  static constexpr std::uint64_t kEnding = 48 * kMiB / kObjectBytes;

  // One volume that ends and one that stays, in batches by turns: their pages share files.
  void Fill() {
    ending_ = opened_->Open(MakeOpen('a', 'n', "ending"));
    staying_ = opened_->Open(MakeOpen('b', 'n', "staying"));
    const std::uint64_t batches = kEnding / 192;
    for (std::uint64_t i = 0; i < batches; ++i) {
      PutBatch(ending_, i * 192, 192);
      PutBatch(staying_, i * 64, 64);
    }
    pages_left_ = batches * 64;
  }

  void PutBatch(const OpenedVolume& volume, std::uint64_t first, std::size_t count) {
    opened_->volume = volume;
    std::vector<std::string> bytes;
    for (std::size_t i = 0; i < count; ++i) {
      bytes.push_back(ObjectBytes(first + i, 1, kObjectBytes));
    }
    std::vector<ObjectRecord> objects;
    for (std::size_t i = 0; i < count; ++i) objects.push_back(MakeObject(first + i, 1, bytes[i]));
    for (const ObjectStatus status : opened_->PutAll(objects)) ASSERT_EQ(status, ObjectStatus::kOk);
  }

  void ExpectSpaceBack(std::uint64_t disk_bytes_before) {
    const std::uint64_t left = pages_left_ * RecordBytes(kObjectBytes);
    EXPECT_GT(disk_bytes_before, 4 * left - kMiB);
    EXPECT_EQ(opened_->store->used_bytes(), left);
    EXPECT_TRUE(Eventually([&] { return opened_->Stat("garbage_volumes_deleted") == 1; }));
    // A sixteenth for indexes and filters, and 2 MiB for logs and the manifest.
    EXPECT_TRUE(Eventually([&] { return opened_->Stat("disk_bytes") < left * 17 / 16 + 2 * kMiB; }))
        << opened_->Stat("disk_bytes") << " of " << disk_bytes_before << " for " << left;
    EXPECT_TRUE(Eventually([&] { return LogBytes() < kMiB; })) << LogBytes();
    opened_->volume = staying_;
    for (std::uint64_t slot = 0; slot < pages_left_; slot += 97) {
      EXPECT_EQ(opened_->GetOne(slot).bytes, ObjectBytes(slot, 1, kObjectBytes));
    }
  }

  // Of RocksDB's log of writes.
  std::uintmax_t LogBytes() const {
    std::uintmax_t bytes = 0;
    for (const auto& file : std::filesystem::directory_iterator(directory_.Path("s"))) {
      std::error_code gone;
      const std::uintmax_t size = file.file_size(gone);
      bytes += !gone && file.path().extension() == ".log" ? size : 0;
    }
    return bytes;
  }

  OpenedVolume ending_;
  OpenedVolume staying_;
  std::uint64_t pages_left_ = 0;
};

TEST_F(SpaceTest, OfADeletedVolumeComesBack) {
  Start(true);
  Fill();
  const std::uint64_t before = opened_->Stat("disk_bytes");
  ASSERT_EQ(Refusal("ending", "swap0", true), "");
  ExpectSpaceBack(before);
}

TEST_F(SpaceTest, OfAnExpiredVolumeComesBack) {
  Start(true);
  Fill();
  const std::uint64_t before = opened_->Stat("disk_bytes");
  Run(minutes(59));
  ASSERT_EQ(opened_->store->Hear(staying_.volume_id, staying_.epoch, {}), CallStatus::kOk);
  Run(minutes(2));
  opened_->store->ExpireSilent();
  EXPECT_EQ(opened_->Stat("volumes_expired"), 1u);
  ExpectSpaceBack(before);
}

// Less than the size at which RocksDB flushes by itself.
TEST_F(SpaceTest, OfTheLogOfADeletedVolumeComesBack) {
  Start(true);
  const OpenedVolume volume = opened_->Open(MakeOpen('a', 'n', "ending"));
  for (std::uint64_t first = 0; first < 2048; first += 256) PutBatch(volume, first, 256);
  EXPECT_GT(LogBytes(), 4 * kMiB);
  ASSERT_EQ(Refusal("ending", "swap0", true), "");
  ASSERT_TRUE(Eventually([&] { return opened_->Stat("garbage_volumes_deleted") == 1; }));
  EXPECT_TRUE(Eventually([&] { return LogBytes() < kMiB; })) << LogBytes();
}

}  // namespace
}  // namespace farswap::store
