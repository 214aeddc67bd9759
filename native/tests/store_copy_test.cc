// Copies of shards from server to server, over real channels on the loopback interface.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "sanitized.h"
#include "store/rocks.h"
#include "store/room.h"
#include "store_copy_fixture.h"
#include "store_damage.h"
#include "store_scripted_source.h"

namespace farswap::store {
namespace {

constexpr std::uint64_t kShardSlots = tier::kShardSlots;

class RealCopyTest : public CopyTest {
 protected:
  void SetUp() override {
    CopyTest::SetUp();
    source_ = Start(64 * kMiB);
  }

  v1::CopyShardRequest FromSource(std::uint64_t shard = 0) const {
    return Request(source_.Named(), shard);
  }

  Server source_;
};

TEST_F(RealCopyTest, AWholeShardComesWithItsBundlesAndWithoutItsNeighbours) {
  constexpr std::uint64_t kFirst = 2 * kShardSlots;
  Fill(*source_.host, kFirst - 1, kShardSlots + 2, 7);
  for (const std::uint64_t slot : {kFirst - 1, kFirst, kFirst + kShardSlots - 1, 3 * kShardSlots}) {
    FillBundle(*source_.host, slot, 9);
  }
  const auto call = Begin(FromSource(2));
  std::uint64_t copied = 0;
  while (call->Read(&call->last) && !call->last.done()) {
    ASSERT_EQ(call->last.status(), v1::CALL_STATUS_OK);
    ASSERT_GE(call->last.copied_objects(), copied);
    copied = call->last.copied_objects();
  }
  EXPECT_GT(copied, 0u) << "no progress before the end";
  EXPECT_TRUE(call->last.done());
  EXPECT_EQ(call->last.message(), "");
  EXPECT_EQ(call->last.listed_objects(), kShardSlots + 2);
  EXPECT_EQ(call->last.copied_objects(), kShardSlots + 2);
  EXPECT_EQ(call->last.copied_bytes(), kShardSlots * 100 + 2 * 300);
  EXPECT_TRUE(call->Finish().ok());
  EXPECT_EQ(target_.Stat("pages"), kShardSlots + 2);
  EXPECT_EQ(target_.Stat("used_bytes"), kShardSlots * RecordBytes(100) + 2 * RecordBytes(300));
  for (std::uint64_t slot = kFirst; slot < kFirst + kShardSlots; slot += 15) {
    ASSERT_EQ(TargetVersion(slot), 7u) << slot;
  }
  EXPECT_EQ(TargetVersion(tier::BundleKeyOf(kFirst)), 9u);
  EXPECT_EQ(TargetVersion(tier::BundleKeyOf(kFirst + kShardSlots - 1)), 9u);
}

TEST_F(RealCopyTest, OnlyMissingAndOlderObjectsAreTransferred) {
  Fill(*source_.host, 0, 300, 5);
  Fill(*target_.host, 0, 100, 5);
  Fill(*target_.host, 100, 50, 6);
  Fill(*target_.host, 150, 50, 4);
  const v1::CopyShardResponse last = Copy(FromSource());
  EXPECT_TRUE(last.done());
  EXPECT_EQ(last.listed_objects(), 300u);
  EXPECT_EQ(last.copied_objects(), 150u);
  EXPECT_EQ(source_.Stat("gets"), 150u);
  EXPECT_EQ(target_.Stat("copies"), 1u);
  EXPECT_EQ(target_.Stat("copied_objects"), 150u);
  EXPECT_EQ(target_.Stat("copied_bytes"), 15000u);
  EXPECT_EQ(target_.Stat("copies_failed"), 0u);
  EXPECT_EQ(target_.Stat("puts"), 200u) << "copies are no puts";
  for (std::uint64_t slot = 0; slot < 300; ++slot) {
    ASSERT_EQ(TargetVersion(slot), slot >= 100 && slot < 150 ? 6u : 5u) << slot;
  }
  EXPECT_EQ(Copy(FromSource()).copied_objects(), 0u);
  EXPECT_EQ(source_.Stat("gets"), 150u);
}

TEST_F(RealCopyTest, NamedObjectsAreCopiedAlone) {
  Fill(*source_.host, 0, 300, 5);
  Fill(*target_.host, 1, 2, 6);
  v1::CopyShardRequest request = FromSource();
  for (const std::uint64_t key : {290u, 1u, 4000u, 7u}) request.add_keys(key);
  const v1::CopyShardResponse last = Copy(request);
  EXPECT_TRUE(last.done());
  EXPECT_EQ(last.listed_objects(), 3u);
  EXPECT_EQ(last.copied_objects(), 2u);
  EXPECT_EQ(TargetVersion(290), 5u);
  EXPECT_EQ(TargetVersion(1), 6u);
  EXPECT_EQ(TargetVersion(7), 5u);
  EXPECT_EQ(target_.Stat("pages"), 4u);
}

// A record of the same version with other bytes, as a disk damages it.
void Damage(const std::string& path, std::uint64_t volume_id, std::uint64_t key,
            std::uint64_t version) {
  Room room(path, 64 * kMiB);
  bool unwritable = false;
  auto rocks = OpenRocks({path, kMiB, &room, rocksdb::FileSystem::Default()}, &unwritable);
  ASSERT_TRUE(rocks.ok()) << rocks.error().message;
  const std::string bytes = ObjectBytes(key, version, 100);
  const RecordHeader header = EncodeRecordHeader(MakeObject(key, version, bytes));
  rocksdb::WriteBatch batch;
  batch.Put(rocks.value()->pages, AsSlice(EncodeRecordKey(volume_id, key)),
            std::string(header.begin(), header.end()) + std::string(100, 'x'));
  ASSERT_TRUE(rocks.value()->WriteSynced(&batch).ok());
}

TEST_F(RealCopyTest, ReplaceEqualRepairsADamagedRecord) {
  Fill(*source_.host, 0, 10, 5);
  Fill(*target_.host, 0, 10, 5);
  const std::uint64_t used = target_.Stat("used_bytes");
  target_.server.reset();
  const std::string path = directory_.Path("1");
  Damage(path, target_.host->volume().volume_id(), 3, 5);
  target_ = Start(64 * kMiB, path);
  const auto bytes_at_target = [&] {
    const auto got = target_.host->GetOnce(target_.host->Slots(1, {3})).results(0);
    return got.object().bytes();
  };
  ASSERT_EQ(bytes_at_target(), std::string(100, 'x'));
  v1::CopyShardRequest request = FromSource();
  request.add_keys(3);
  EXPECT_EQ(Copy(request).copied_objects(), 0u);
  EXPECT_EQ(bytes_at_target(), std::string(100, 'x'));
  request.set_replace_equal(true);
  EXPECT_EQ(Copy(request).copied_objects(), 1u);
  EXPECT_EQ(bytes_at_target(), ObjectBytes(3, 5, 100));
  request.clear_keys();
  EXPECT_EQ(Copy(request).copied_objects(), 10u);
  EXPECT_EQ(target_.Stat("used_bytes"), used);
  EXPECT_EQ(target_.Stat("pages"), 10u);
}

// RocksDB reads nothing of a block whose checksum fails.
TEST_F(RealCopyTest, ReplaceEqualRepairsTheRecordsOfADamagedBlock) {
  Fill(*source_.host, 0, 300, 5);
  Fill(*target_.host, 0, 300, 5);
  const std::uint64_t used = target_.Stat("used_bytes");
  target_.server.reset();
  const std::string path = directory_.Path("1");
  ASSERT_TRUE(DamageBytes(path, ObjectBytes(3, 5, 100)));
  target_ = Start(64 * kMiB, path);
  const auto status_of = [&](std::uint64_t key) {
    return target_.host->GetOnce(target_.host->Slots(1, {key})).results(0).status();
  };
  v1::CopyShardRequest request = FromSource();
  request.set_replace_equal(true);
  for (std::uint64_t key = 0; key < 300; ++key) {
    if (status_of(key) == v1::OBJECT_STATUS_OK) continue;
    EXPECT_EQ(status_of(key), v1::OBJECT_STATUS_CORRUPT);
    request.add_keys(key);
  }
  EXPECT_GT(request.keys_size(), 1) << "a block has several records";
  EXPECT_LT(request.keys_size(), 300);
  v1::ListShardRequest list;
  list.set_volume_id(request.volume_id());
  list.set_epoch(request.epoch());
  v1::ListShardResponse listed;
  grpc::ClientContext context;
  ASSERT_TRUE(target_.host->stub().ListShard(&context, list, &listed).ok());
  EXPECT_EQ(listed.entries_size(), 300) << "a copy from here knows what it lacks";
  EXPECT_EQ(Copy(request).copied_objects(), static_cast<std::uint64_t>(request.keys_size()));
  for (std::uint64_t key = 0; key < 300; ++key) ASSERT_EQ(TargetVersion(key), 5u) << key;
  EXPECT_EQ(target_.Stat("used_bytes"), used);
  EXPECT_EQ(target_.Stat("pages"), 300u);
}

TEST_F(RealCopyTest, PutsThatRaceWithCopiesAreNeverLowered) {
  constexpr std::uint64_t kSlots = 512;
  const std::uint64_t rounds = kSanitized ? 8 : 40;
  std::atomic<bool> copying{true};
  std::thread copier([&] {
    v1::CopyShardRequest request = FromSource();
    for (bool replace = false; copying; replace = !replace) {
      request.set_replace_equal(replace);
      EXPECT_TRUE(Copy(request).done());
    }
  });
  std::minstd_rand random(1);
  std::uint64_t version = 0;
  for (std::uint64_t round = 0; round < rounds; ++round) {
    Fill(*source_.host, 0, kSlots, ++version);
    const std::uint64_t first = random() % (kSlots - 64);
    Fill(*target_.host, first, 64, ++version);
    for (std::uint64_t slot = first; slot < first + 64; slot += 7) {
      ASSERT_EQ(TargetVersion(slot), version);
    }
  }
  copying = false;
  copier.join();
  EXPECT_TRUE(Copy(FromSource()).done());
  for (std::uint64_t slot = 0; slot < kSlots; ++slot) ASSERT_GE(TargetVersion(slot), version - 1);
  EXPECT_EQ(target_.Stat("pages"), kSlots);
  EXPECT_EQ(target_.Stat("used_bytes"), kSlots * RecordBytes(100));
}

class ScriptedCopyTest : public CopyTest {
 protected:
  ScriptedSource source_;
};

TEST_F(ScriptedCopyTest, APutAfterTheGetWins) {
  source_.Add(1, 5);
  source_.Add(2, 5);
  source_.ChangeGet([&](v1::GetResponse*) { Fill(*target_.host, 1, 1, 6); });
  v1::CopyShardRequest request = Request(source_.Named());
  request.set_replace_equal(true);
  const v1::CopyShardResponse last = Copy(request);
  EXPECT_TRUE(last.done());
  EXPECT_EQ(last.copied_objects(), 1u);
  EXPECT_EQ(TargetVersion(1), 6u);
  EXPECT_EQ(TargetVersion(2), 5u);
}

TEST_F(ScriptedCopyTest, ObjectsDiscardedMeanwhileAreLeftOut) {
  for (std::uint64_t key = 0; key < 10; ++key) source_.Add(key, 5);
  source_.BeforeGet([&] { source_.Remove(4); });
  const v1::CopyShardResponse last = Copy(Request(source_.Named()));
  EXPECT_TRUE(last.done());
  EXPECT_EQ(last.message(), "");
  EXPECT_EQ(last.listed_objects(), 10u);
  EXPECT_EQ(last.copied_objects(), 9u);
  EXPECT_EQ(TargetVersion(4), 0u);
}

TEST_F(ScriptedCopyTest, DamagedObjectsAreLeftOutAndCounted) {
  for (std::uint64_t key = 0; key < 10; ++key) source_.Add(key, 5);
  source_.ChangeGet([](v1::GetResponse* response) {
    for (v1::GetResponse::Result& result : *response->mutable_results()) {
      if (result.object().key() == 1) result.mutable_object()->set_checksum(7);
      if (result.object().key() == 2) result.mutable_object()->set_key(3000);
      if (result.object().key() == 3) result.set_status(v1::OBJECT_STATUS_CORRUPT);
    }
  });
  source_.ChangeList(
      [](v1::ListShardResponse* response) { response->mutable_entries(4)->set_version(0); });
  const v1::CopyShardResponse last = Copy(Request(source_.Named()));
  EXPECT_TRUE(last.done());
  EXPECT_EQ(last.status(), v1::CALL_STATUS_OK);
  EXPECT_EQ(last.message(), "4 objects are damaged at " + source_.address());
  EXPECT_EQ(last.copied_objects(), 6u);
  for (const std::uint64_t key : {1u, 2u, 3u, 4u, 3000u}) EXPECT_EQ(TargetVersion(key), 0u) << key;
}

TEST_F(ScriptedCopyTest, WrongAnswersFailTheSource) {
  source_.Add(1, 5);
  source_.Add(2, 5);
  const v1::CopyShardRequest request = Request(source_.Named());
  const auto expect_failure = [&](const std::string& why) {
    const v1::CopyShardResponse last = Copy(request);
    EXPECT_EQ(last.status(), v1::CALL_STATUS_SOURCE_FAILED);
    EXPECT_EQ(last.message(), "failed to copy from " + source_.address() + ": " + why);
  };
  source_.ChangeGet([](v1::GetResponse* response) { response->set_request_id(1); });
  expect_failure("Get has a wrong answer");
  source_.ChangeGet([](v1::GetResponse* response) { response->mutable_results()->RemoveLast(); });
  expect_failure("Get has a wrong answer");
  source_.ChangeGet(
      [](v1::GetResponse* response) { response->set_status(v1::CALL_STATUS_FENCED); });
  expect_failure("Get was refused: CALL_STATUS_FENCED");
  source_.ChangeList(
      [](v1::ListShardResponse* response) { response->mutable_entries(1)->set_key(1); });
  expect_failure("ListShard names a wrong object");
  source_.ChangeList(
      [](v1::ListShardResponse* response) { response->mutable_entries(1)->set_key(kShardSlots); });
  expect_failure("ListShard names a wrong object");
  source_.ChangeList([](v1::ListShardResponse* response) { response->set_next_cursor(2); });
  expect_failure("ListShard goes back");
  EXPECT_EQ(target_.Stat("pages"), 0u);
  EXPECT_EQ(target_.Stat("copies_failed"), 6u);
}

TEST_F(ScriptedCopyTest, ABusySourceIsToBeTriedLater) {
  source_.Add(1, 5);
  source_.ChangeList([](v1::ListShardResponse* response) {
    response->set_status(v1::CALL_STATUS_RETRY_AFTER);
    response->set_retry_after_ms(70);
  });
  const v1::CopyShardResponse last = Copy(Request(source_.Named()));
  EXPECT_EQ(last.status(), v1::CALL_STATUS_RETRY_AFTER);
  EXPECT_EQ(last.retry_after_ms(), 70u);
  EXPECT_EQ(last.message(), source_.address() + " is busy");
}

}  // namespace
}  // namespace farswap::store
