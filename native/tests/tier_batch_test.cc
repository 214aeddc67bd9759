// Writeback and the manual job, each alone.
#include <gtest/gtest.h>

#include <utility>

#include "hang_guard.h"
#include "memory_remote.h"
#include "tier/manual_job.h"
#include "tier/writeback.h"

namespace farswap::tier {
namespace {

using std::chrono::milliseconds;
using Time = std::chrono::steady_clock::time_point;

Time test_time;
Time TestNow() { return test_time; }

class TierBatch : public ::testing::Test, public Writeback::Listener, public RoomListener {
 protected:
  void SetUp() override {
    test_time = Time{std::chrono::hours{1}};
    config_.now = &TestNow;
    auto state = State::Create(kSlots, Pool::kPoolBytesMin);
    auto arenas = Writeback::CreateArenas();
    ASSERT_TRUE(state.ok() && arenas.ok());
    pages_.emplace(std::move(state.value()), &stale_);
    pages_->ReportRoomTo(this);
    stale_.OnFirstMark([] {});
    packer_.emplace(&*pages_);
    writeback_.emplace(config_, &remote_, &*pages_, &stale_, &*packer_, std::move(arenas.value()));
    writeback_->ReportTo(this);
    for (SlotIndex slot = 0; slot < kSlots; ++slot) Store(slot);
  }
  void TearDown() override {
    remote_.Release();
    writeback_->WaitForBatches();
  }

  void RoomMade(GroupIndex) override {}
  void OnAnswered(const Writeback::Answer& answer) override { answers_.push_back(answer); }

  void Store(SlotIndex slot) {
    const std::array<std::byte, 100> bytes{};
    const Compressed object{Codec::kLz4, bytes};
    const std::uint32_t checksum = PageChecksum(slot, object.codec, object.bytes);
    const EntryRef entry = pages_->TakeRoom(kRootGroup, bytes.size()).entry;
    const auto lock = pages_->Lock(slot);
    pages_->Publish(slot, pages_->Fill(entry, object, checksum, 0));
  }
  SlotState StateOf(SlotIndex slot) {
    const auto lock = pages_->Lock(slot);
    return pages_->Get(slot).state;
  }
  WorkResult Send(std::size_t pages) {
    Writeback::Batch* const batch = writeback_->Begin({});
    if (batch == nullptr) return WorkResult::kBlocked;
    writeback_->TakeColdest(batch, kRootGroup, pages);
    const WorkResult result = writeback_->Send(batch);
    writeback_->WaitForBatches();
    return result;
  }

  static constexpr SlotIndex kSlots = 4;
  TierConfig config_;
  MemoryRemote remote_;
  StaleObjects stale_{kSlots};
  std::optional<Pages> pages_;
  std::optional<Packer> packer_;
  std::optional<Writeback> writeback_;
  std::vector<Writeback::Answer> answers_;  // read after WaitForBatches()
};

TEST_F(TierBatch, MovesTheColdestEntries) {
  EXPECT_EQ(Send(2), WorkResult::kWorked);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].pages, 2u);
  EXPECT_EQ(answers_[0].acked_pages, 2u);
  EXPECT_EQ(writeback_->in_flight_bytes(), 0u);
  EXPECT_EQ(StateOf(0), SlotState::kRemote);
  EXPECT_EQ(StateOf(1), SlotState::kRemote);
  EXPECT_EQ(StateOf(2), SlotState::kLocal);
}

TEST_F(TierBatch, LeavesAnEntryThatWasOverwrittenMeanwhile) {
  remote_.Hold();
  Writeback::Batch* const batch = writeback_->Begin({});
  ASSERT_NE(batch, nullptr);
  writeback_->TakeColdest(batch, kRootGroup, 1);
  EXPECT_EQ(writeback_->Send(batch), WorkResult::kWorked);
  EXPECT_EQ(StateOf(0), SlotState::kWriting);
  Store(0);
  remote_.Release();
  writeback_->WaitForBatches();
  EXPECT_EQ(answers_.at(0).acked_pages, 0u);
  EXPECT_EQ(StateOf(0), SlotState::kLocal);
}

TEST_F(TierBatch, WithoutEntriesIsNothingToDo) {
  EXPECT_EQ(Send(kSlots), WorkResult::kWorked);
  EXPECT_EQ(Send(1), WorkResult::kNothingToDo);
}

TEST_F(TierBatch, AfterAFailedOneTheNextWaitsTwiceAsLongEachTime) {
  remote_.FailPuts(PutResult::kServerFull);
  for (milliseconds backoff{20}; backoff <= milliseconds{80}; backoff *= 2) {
    EXPECT_EQ(Send(1), WorkResult::kWorked);
    EXPECT_TRUE(answers_.back().server_full);
    EXPECT_EQ(writeback_->retry_delay(), backoff);
    test_time += backoff - milliseconds{1};
    EXPECT_EQ(Send(1), WorkResult::kBlocked);
    test_time += milliseconds{1};
  }
  remote_.FailPuts(PutResult::kAcked);
  EXPECT_EQ(Send(1), WorkResult::kWorked);
  EXPECT_EQ(Send(1), WorkResult::kWorked);
  EXPECT_EQ(answers_.back().acked_pages, 1u);
}

TEST(ManualJob, EndsWhenItsTargetIsWritten) {
  ManualJob job;
  EXPECT_FALSE(job.NotSent());
  ASSERT_TRUE(job.Start({.bytes = 3 * kPageBytes - 1}));
  EXPECT_FALSE(job.Start({.bytes = 1}));
  EXPECT_EQ(job.NotSent()->pages, 3u);
  job.OnSent(3);
  EXPECT_EQ(job.NotSent()->pages, 0u);
  job.OnAnswered({.cause = Counter::writeback_started_manual, .pages = 3, .acked_pages = 2});
  EXPECT_EQ(job.NotSent()->pages, 1u) << "one failed";
  job.OnSent(1);
  job.OnNothingLeft();
  EXPECT_FALSE(job.Progress().finished) << "one is in flight";
  job.OnAnswered({.cause = Counter::writeback_started_manual, .pages = 1, .acked_pages = 1});
  EXPECT_TRUE(job.Progress().finished);
  EXPECT_STREQ(job.Progress().stopped_because, "");
}

TEST(ManualJob, StartsAgainOnlyWhenNothingIsInFlight) {
  ManualJob job;
  ASSERT_TRUE(job.Start({.bytes = kPageBytes}));
  job.OnSent(1);
  job.Cancel();
  EXPECT_STREQ(job.Progress().stopped_because, "cancelled");
  EXPECT_FALSE(job.Start({.bytes = kPageBytes}));
  job.OnAnswered({.cause = Counter::writeback_started_manual, .pages = 1, .server_full = true});
  EXPECT_STREQ(job.Progress().stopped_because, "cancelled");
  EXPECT_TRUE(job.Start({.bytes = kPageBytes}));
}

}  // namespace
}  // namespace farswap::tier
