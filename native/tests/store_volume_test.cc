// Volumes: incarnations, epochs, fencing, and what becomes of garbage.
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <functional>
#include <thread>

#include "store/page_store.h"
#include "store_objects.h"
#include "waiter.h"

namespace farswap::store {
namespace {

class VolumeTest : public ::testing::Test {
 protected:
  static std::size_t GarbageVolumes(const PageStore& store) {
    std::size_t count = 0;
    for (const VolumeInfo& volume : store.Volumes()) count += volume.garbage ? 1 : 0;
    return count;
  }

  static bool WaitCollected(const PageStore& store) {
    return Eventually([&] { return GarbageVolumes(store) == 0; });
  }

  // Keys of "default" in a closed store, of one volume.
  static std::size_t KeysOnDisk(const std::string& path, std::uint64_t volume_id) {
    std::vector<std::string> families;
    rocksdb::DB::ListColumnFamilies({}, path, &families);
    std::vector<rocksdb::ColumnFamilyDescriptor> descriptors = {{"default", {}}};
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* opened = nullptr;
    const auto status = rocksdb::DB::OpenForReadOnly({}, path, descriptors, &handles, &opened);
    EXPECT_TRUE(status.ok()) << status.ToString();
    const std::unique_ptr<rocksdb::DB> db(opened);
    const std::string begin = EncodeVolumeKey(volume_id);
    std::size_t count = 0;
    {
      const std::unique_ptr<rocksdb::Iterator> it(db->NewIterator({}));
      for (it->Seek(begin); it->Valid() && it->key().starts_with(begin); it->Next()) ++count;
    }
    db->DestroyColumnFamilyHandle(handles[0]);
    return count;
  }

  ScratchDirectory directory_;
};

TEST_F(VolumeTest, SameIncarnationKeepsPagesAndRaisesTheEpoch) {
  OpenedStore opened(directory_.Path("s"));
  const auto first = opened.Open('a');
  opened.PutOne(1, 1);
  const auto second = opened.Open('a');
  EXPECT_EQ(second.volume_id, first.volume_id);
  EXPECT_GT(second.epoch, first.epoch);
  EXPECT_EQ(opened.GetOne(1).status, ObjectStatus::kOk);
}

TEST_F(VolumeTest, LowerEpochIsFencedForEveryCall) {
  OpenedStore opened(directory_.Path("s"));
  const auto old = opened.Open('a');
  opened.PutOne(1, 1);
  const auto current = opened.Open('a');
  opened.volume = old;
  opened.PutOne(1, 2);
  EXPECT_EQ(opened.last, CallStatus::kFenced);
  opened.GetOne(1);
  EXPECT_EQ(opened.last, CallStatus::kFenced);
  std::uint64_t discarded = 0;
  const std::vector<DiscardItem> items = {{1, 9}};
  EXPECT_EQ(opened.store->Discard(old.volume_id, old.epoch, items, &discarded).value(),
            CallStatus::kFenced);
  EXPECT_EQ(opened.store->CloseVolume(old.volume_id, old.epoch).value(), CallStatus::kFenced);
  opened.volume = current;
  EXPECT_EQ(opened.GetOne(1).version, 1u);
  EXPECT_EQ(opened.Stat("fenced"), 4u);
}

TEST_F(VolumeTest, EpochThatWasNeverGivenOutIsUnknown) {
  OpenedStore opened(directory_.Path("s"));
  opened.Open('a');
  ++opened.volume.epoch;
  opened.PutOne(1, 1);
  EXPECT_EQ(opened.last, CallStatus::kUnknownVolume);
  opened.volume.volume_id ^= 1;
  opened.GetOne(1);
  EXPECT_EQ(opened.last, CallStatus::kUnknownVolume);
}

TEST_F(VolumeTest, EpochsNeverGoBackOverReopensAndCloses) {
  OpenedStore opened(directory_.Path("s"));
  std::uint64_t epoch = 0;
  for (const char incarnation : {'a', 'a', 'b', 'c', 'c'}) {
    const auto volume = opened.Open(incarnation);
    EXPECT_GT(volume.epoch, epoch);
    epoch = volume.epoch;
    opened.Reopen();
  }
  opened.Open('c');
  EXPECT_EQ(opened.store->CloseVolume(opened.volume.volume_id, opened.volume.epoch).value(),
            CallStatus::kOk);
  ASSERT_TRUE(WaitCollected(*opened.store));
  opened.Reopen();
  EXPECT_GT(opened.Open('d').epoch, epoch + 1);
}

TEST_F(VolumeTest, NewIncarnationMakesTheOldOneGarbageThatGoesAway) {
  OpenedStore opened(directory_.Path("s"));
  const auto old = opened.Open('a');
  for (std::uint64_t slot = 0; slot < 300; ++slot) opened.PutOne(slot, 1, 2000);
  const auto current = opened.Open('b');
  EXPECT_NE(current.volume_id, old.volume_id);
  EXPECT_GT(current.epoch, old.epoch);
  EXPECT_EQ(opened.store->used_bytes(), 0u);
  EXPECT_EQ(opened.GetOne(1).status, ObjectStatus::kNotFound);
  opened.PutOne(7, 1);
  opened.volume = old;
  opened.PutOne(1, 9);
  EXPECT_NE(opened.last, CallStatus::kOk);
  ASSERT_TRUE(WaitCollected(*opened.store));
  EXPECT_TRUE(Eventually([&] { return opened.Stat("garbage_volumes_deleted") == 1; }));
  EXPECT_EQ(opened.Stat("pages"), 1u);
  opened.store.reset();
  EXPECT_EQ(KeysOnDisk(directory_.Path("s"), old.volume_id), 0u);
  EXPECT_EQ(KeysOnDisk(directory_.Path("s"), current.volume_id), 1u);
}

TEST_F(VolumeTest, GarbageLeftByAStopIsDeletedAfterTheNextStart) {
  const std::string path = directory_.Path("s");
  std::uint64_t old_id = 0;
  {
    OpenedStore opened(path, 64 * kMiB, false);
    old_id = opened.Open('a').volume_id;
    for (std::uint64_t slot = 0; slot < 300; ++slot) opened.PutOne(slot, 1, 2000);
    opened.Open('b');
    EXPECT_EQ(GarbageVolumes(*opened.store), 1u);
  }
  EXPECT_EQ(KeysOnDisk(path, old_id), 300u);
  {
    OpenedStore opened(path);
    EXPECT_EQ(opened.store->used_bytes(), 0u);
    ASSERT_TRUE(WaitCollected(*opened.store));
    EXPECT_EQ(opened.store->Volumes().size(), 1u);
  }
  EXPECT_EQ(KeysOnDisk(path, old_id), 0u);
}

TEST_F(VolumeTest, GarbageIsNotCountedAgainstTheCapacity) {
  OpenedStore opened(directory_.Path("s"), 10 * RecordBytes(100), false);
  opened.Open('a');
  for (std::uint64_t slot = 0; slot < 10; ++slot) opened.PutOne(slot, 1);
  opened.Open('b');
  EXPECT_EQ(opened.PutOne(0, 1), ObjectStatus::kOk);
  EXPECT_EQ(opened.Stat("garbage_bytes"), 10 * RecordBytes(100));
}

TEST_F(VolumeTest, RetiredIncarnationCannotComeBackAndHurtItsSuccessor) {
  OpenedStore opened(directory_.Path("s"));
  opened.Open('a');
  const auto current = opened.Open('b');
  opened.PutOne(1, 1);
  EXPECT_EQ(opened.Open('a').status, OpenStatus::kFenced);
  ASSERT_TRUE(WaitCollected(*opened.store));
  opened.Reopen();
  EXPECT_EQ(opened.Open('a').status, OpenStatus::kFenced);
  opened.volume = current;
  EXPECT_EQ(opened.GetOne(1).status, ObjectStatus::kOk);
}

TEST_F(VolumeTest, ClosedVolumeIsGarbageAndClosingItAgainIsFine) {
  OpenedStore opened(directory_.Path("s"), 64 * kMiB, false);
  const auto volume = opened.Open('a');
  opened.PutOne(1, 1);
  const auto close = [&] { return opened.store->CloseVolume(volume.volume_id, volume.epoch); };
  EXPECT_EQ(close().value(), CallStatus::kOk);
  EXPECT_EQ(close().value(), CallStatus::kOk);
  EXPECT_EQ(opened.store->used_bytes(), 0u);
  opened.GetOne(1);
  EXPECT_EQ(opened.last, CallStatus::kUnknownVolume);
  EXPECT_EQ(opened.Open('a').status, OpenStatus::kFenced);
}

TEST_F(VolumeTest, HostsAndDevicesAreApart) {
  OpenedStore opened(directory_.Path("s"));
  const auto one = opened.Open('a', "one");
  opened.PutOne(1, 1);
  const auto two = opened.Open('a', "two");
  EXPECT_NE(one.volume_id, two.volume_id);
  EXPECT_EQ(opened.GetOne(1).status, ObjectStatus::kNotFound);
  opened.Open('b', "two");
  opened.volume = one;
  EXPECT_EQ(opened.GetOne(1).status, ObjectStatus::kOk);
}

TEST_F(VolumeTest, BadOpensAreRefusedWithTheirReason) {
  OpenedStore opened(directory_.Path("s"));
  const std::string long_name(129, 'n');
  const auto status_of = [&](const std::function<void(OpenRequest*)>& change) {
    OpenRequest request = MakeOpen('a', 'n');
    change(&request);
    return opened.Open(request).status;
  };
  EXPECT_EQ(status_of([](auto* r) { r->host_id = ""; }), OpenStatus::kInvalid);
  EXPECT_EQ(status_of([&](auto* r) { r->host_id = long_name; }), OpenStatus::kInvalid);
  EXPECT_EQ(status_of([](auto* r) { r->device = ""; }), OpenStatus::kInvalid);
  EXPECT_EQ(status_of([&](auto* r) { r->device = long_name; }), OpenStatus::kInvalid);
  EXPECT_EQ(status_of([&](auto* r) { r->owner.host_name = long_name; }), OpenStatus::kInvalid);
  EXPECT_EQ(status_of([](auto* r) { r->slots = 0; }), OpenStatus::kInvalid);
  EXPECT_EQ(status_of([](auto* r) { r->slots = kVolumeSlotsMax + 1; }), OpenStatus::kInvalid);
  EXPECT_EQ(status_of([](auto* r) { r->slots = kVolumeSlotsMax; }), OpenStatus::kOk);
  OpenRequest resized = MakeOpen('a', 'n');
  resized.slots = 5;
  const OpenedVolume refused = opened.Open(resized);
  EXPECT_EQ(refused.status, OpenStatus::kInvalid);
  EXPECT_NE(refused.message.find("2147483648 slots, not 5"), std::string::npos);
  EXPECT_TRUE(opened.store->Volumes().size() == 1);
}

TEST_F(VolumeTest, StoreOfTheFirstFormatIsRefusedAndLeftAsItIs) {
  const std::string path = directory_.Path("s");
  { OpenedStore opened(path); }
  const auto write_format = [&](const std::string& value) {
    rocksdb::DBOptions options;
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* opened = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(options, path, {{"default", {}}, {"volumes", {}}, {"usage", {}}},
                                  &handles, &opened)
                    .ok());
    const std::unique_ptr<rocksdb::DB> db(opened);
    EXPECT_TRUE(db->Put({}, handles[1], "f", value).ok());
    for (rocksdb::ColumnFamilyHandle* handle : handles) db->DestroyColumnFamilyHandle(handle);
  };
  write_format("\x01");
  for (int i = 0; i < 2; ++i) {
    const auto refused = PageStore::Open({.path = path, .block_cache_bytes = kMiB});
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().message.find("format is 1"), std::string::npos);
  }
}

TEST_F(VolumeTest, StoresRacingWithASuccessorAreKeptOrRefusedNeverMixed) {
  OpenedStore opened(directory_.Path("s"));
  const auto old = opened.Open('a');
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    std::array<ObjectStatus, 1> results;
    for (std::uint64_t version = 1; !stop; ++version) {
      const std::string bytes = ObjectBytes(1, version, 100);
      const std::vector<ObjectRecord> pages = {MakeObject(1, version, bytes)};
      opened.store->Put(old.volume_id, old.epoch, pages, results);
    }
  });
  OpenedVolume current;
  for (int i = 0; i < 20; ++i) {
    current = opened.Open(static_cast<char>('b' + i));
    ASSERT_EQ(current.status, OpenStatus::kOk);
  }
  stop = true;
  writer.join();
  EXPECT_EQ(opened.store->used_bytes(), 0u);
  EXPECT_TRUE(WaitCollected(*opened.store));
}

}  // namespace
}  // namespace farswap::store
