// Packer over Pages alone: batches in orders that no thread can be made to fill.
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "awaited_io.h"
#include "stamped_page.h"
#include "tier/packer.h"

namespace farswap::tier {
namespace {

class TierPacker : public ::testing::Test, private RoomListener {
 protected:
  static constexpr std::uint64_t kSlots = 1024;
  static constexpr std::uint32_t kNow = 1'000'000;

  void SetUp() override {
    auto state = State::Create(kSlots, Pool::kPoolBytesMin);
    ASSERT_TRUE(state.ok());
    pages_ = std::make_unique<Pages>(std::move(state.value()), &stale_);
    pages_->ReportRoomTo(this);
    packer_ = std::make_unique<Packer>(pages_.get());
    ASSERT_TRUE(packer_->SetPacking(true).ok());
  }

  void Store(SlotIndex slot, std::uint32_t generation) {
    Page page;
    FillNumbered(PageKind::kCompressible, generation, page.data());
    const Compressed object = CompressPage(page.data());
    const Pages::Room room = pages_->TakeRoom(kRootGroup, object.bytes.size());
    const auto lock = pages_->Lock(slot);
    pages_->Publish(slot, pages_->Fill(room.entry, object,
                                       PageChecksum(slot, object.codec, object.bytes), kNow));
  }

  // Takes the slot's page into the batch.
  void Take(SlotIndex slot) {
    const auto lock = pages_->Lock(slot);
    std::byte* const copy = arena_.data() + batch_.size() * kPageBytes;
    pages_->BeginWriteback(slot, Counter::writeback_started_manual, kNow, copy,
                           &batch_.emplace_back());
  }

  std::string StateOf(SlotIndex slot) {
    const SlotRecord& record = pages_->Get(slot);
    return std::string(SlotStateName(record.state)) + (record.in_bundle ? " in its bundle" : "");
  }

  StaleObjects stale_{kSlots};
  std::unique_ptr<Pages> pages_;
  std::unique_ptr<Packer> packer_;
  std::vector<std::byte> arena_ = std::vector<std::byte>(16 * kPageBytes);
  std::vector<Object> batch_;

 private:
  void RoomMade(GroupIndex) override {}
};

// The batch has it twice: as a neighbour, and by itself after it was overwritten.
TEST_F(TierPacker, AMemberOverwrittenWhileItsBatchIsFilledIsNotInTheBundle) {
  for (SlotIndex slot = 0; slot < 4; ++slot) Store(slot, slot);
  for (SlotIndex slot = 0; slot < 4; ++slot) Take(slot);
  Store(1, 10);
  Take(1);
  const Packer::Run neighbours{.first = 0, .count = 4};
  ASSERT_EQ(packer_->Pack(batch_, {&neighbours, 1}, arena_.data()), 2u);
  EXPECT_EQ(StateOf(0), "writing in its bundle");
  EXPECT_EQ(StateOf(1), "writing");
  EXPECT_EQ(pages_->EndBundle(batch_[0], PutResult::kAcked, {}), 3u);
  EXPECT_EQ(StateOf(0), "remote in its bundle");
  EXPECT_EQ(StateOf(1), "writing");
  EXPECT_TRUE(pages_->EndWriteback(batch_[1], PutResult::kAcked, {}));
  EXPECT_EQ(StateOf(1), "remote");
  const CounterValues counters = pages_->groups().Stats()[0].counters;
  EXPECT_EQ(counters[static_cast<std::size_t>(Counter::writeback_raced)], 1u);
}

}  // namespace
}  // namespace farswap::tier
