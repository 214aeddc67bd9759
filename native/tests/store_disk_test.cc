// Disks that fail: the store never ends the process, loses no acknowledged page, and goes on by
// itself. tests/integration/test_full_disk.py does the same with disks that are really full.
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "faulty_files.h"
#include "store_objects.h"
#include "waiter.h"

namespace farswap::store {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kBytes = 3000;

class DiskTest : public testing::Test {
 protected:
  void Open() {
    opened_ = std::make_unique<OpenedStore>(PageStoreConfig{.path = directory_.Path("s"),
                                                            .capacity_bytes = 64 * kMiB,
                                                            .block_cache_bytes = kMiB,
                                                            .files = files_});
  }

  // A batch of pages with the next version at random slots; notes what was acknowledged.
  void StoreSome() {
    std::vector<std::string> bytes;
    std::vector<ObjectRecord> pages;
    std::map<std::uint64_t, std::uint64_t> versions;
    ++version_;
    for (int i = 0; i < 100; ++i) versions[random_() % 4000] = version_;
    bytes.reserve(versions.size());
    for (const auto& [slot, version] : versions) {
      bytes.push_back(ObjectBytes(slot, version, kBytes));
      pages.push_back(MakeObject(slot, version, bytes.back()));
    }
    const auto results = opened_->PutAll(pages);
    ASSERT_EQ(opened_->last, CallStatus::kOk);
    for (std::size_t i = 0; i < pages.size(); ++i) {
      if (results[i] == ObjectStatus::kOk) acknowledged_[pages[i].key] = version_;
    }
    accepted_ = results[0] == ObjectStatus::kOk;
  }

  // A page that was answered with an error may be there all the same.
  void VerifyAll() {
    for (const auto& [slot, version] : acknowledged_) {
      const auto page = opened_->GetOne(slot);
      ASSERT_EQ(page.status, ObjectStatus::kOk) << "slot " << slot;
      ASSERT_GE(page.version, version) << "slot " << slot;
      ASSERT_EQ(page.bytes, ObjectBytes(slot, page.version, kBytes)) << "slot " << slot;
    }
  }

  void StoreUntil(bool accepted) {
    const auto stored_so = [&] {
      StoreSome();
      return HasFatalFailure() || accepted_ == accepted;
    };
    ASSERT_TRUE(Eventually(stored_so)) << opened_->store->disk_problem();
  }

  const ScratchDirectory directory_;
  Faults faults_;
  std::shared_ptr<FaultyFiles> files_ = std::make_shared<FaultyFiles>(&faults_);
  std::unique_ptr<OpenedStore> opened_;
  std::minstd_rand random_{1};
  std::uint64_t version_ = 0;
  std::map<std::uint64_t, std::uint64_t> acknowledged_;
  bool accepted_ = false;
};

TEST_F(DiskTest, RandomWriteErrorsEndNothingAndLoseNothing) {
  Open();
  ASSERT_EQ(opened_->Open().status, OpenStatus::kOk);
  for (int round = 0; round < 6; ++round) {
    faults_.full = round % 3 == 2;
    faults_.writes = round % 2 == 0 ? 20 : 200;
    const auto until = Clock::now() + std::chrono::milliseconds(300);
    while (Clock::now() < until) StoreSome();
    VerifyAll();
    if (round == 3) {
      opened_->store.reset();  // closes while the disk fails
    }
    faults_.writes = 0;
    if (round == 3) {
      Open();
      ASSERT_EQ(opened_->Open().status, OpenStatus::kOk);
    }
    StoreUntil(true);
    VerifyAll();
  }
}

TEST_F(DiskTest, ADiskThatFailsServesReadsAndTakesPagesAgainWhenItWorks) {
  Open();
  ASSERT_EQ(opened_->Open().status, OpenStatus::kOk);
  StoreUntil(true);
  EXPECT_EQ(opened_->store->disk_problem(), "");
  faults_.writes = Faults::kAlways;
  StoreUntil(false);
  EXPECT_NE(opened_->store->disk_problem().find("Input/output error"), std::string::npos);
  VerifyAll();
  EXPECT_EQ(opened_->PutOne(1, 1), ObjectStatus::kFull);
  faults_.writes = 0;
  StoreUntil(true);
  EXPECT_EQ(opened_->store->disk_problem(), "");
  VerifyAll();
}

TEST_F(DiskTest, AStoreOnADiskThatFailsOpensForReading) {
  Open();
  const OpenedVolume volume = opened_->Open();
  StoreUntil(true);
  faults_.writes = Faults::kAlways;
  opened_->Reopen();
  VerifyAll();
  const OpenedVolume other = opened_->Open('b');
  EXPECT_EQ(other.status, OpenStatus::kIoError);
  EXPECT_NE(other.message.find("read-only"), std::string::npos) << other.message;
  opened_->volume = volume;
  EXPECT_EQ(opened_->PutOne(1, 1000000), ObjectStatus::kFull);
  faults_.writes = 0;
  StoreUntil(true);
  VerifyAll();
  EXPECT_EQ(opened_->Open('b').status, OpenStatus::kOk);
}

TEST_F(DiskTest, ADrainThatCannotBeWrittenChangesNothingAndOneThatIsOutlastsTheDisk) {
  Open();
  ASSERT_EQ(opened_->Open().status, OpenStatus::kOk);
  faults_.writes = Faults::kAlways;
  EXPECT_FALSE(opened_->store->SetDraining(true).ok());
  EXPECT_NE(opened_->store->state(), ServerState::kDraining);
  faults_.writes = 0;
  StoreUntil(true);
  EXPECT_EQ(opened_->store->state(), ServerState::kActive);
  ASSERT_TRUE(opened_->store->SetDraining(true).ok());
  faults_.writes = Faults::kAlways;
  StoreUntil(false);
  EXPECT_EQ(opened_->store->state(), ServerState::kDraining);
  opened_->Reopen();
  EXPECT_EQ(opened_->store->state(), ServerState::kDraining) << "read-only";
  faults_.writes = 0;
  StoreUntil(true);
  EXPECT_EQ(opened_->store->state(), ServerState::kDraining);
}

TEST_F(DiskTest, BlocksThatCannotBeReadEndNothingAndLoseNothing) {
  Open();
  ASSERT_EQ(opened_->Open().status, OpenStatus::kOk);
  for (int i = 0; i < 200; ++i) {
    StoreSome();  // several memtables
  }
  faults_.reads = 100;
  for (int i = 0; i < 200; ++i) StoreSome();
  faults_.reads = 0;
  StoreUntil(true);
  VerifyAll();
}

}  // namespace
}  // namespace farswap::store
