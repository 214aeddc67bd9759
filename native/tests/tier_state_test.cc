// A tier on memory that another one has left, and memory that is refused.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "surviving.h"
#include "tier/state.h"
#include "tier_fixture.h"

namespace farswap::tier {
namespace {

constexpr std::uint64_t kSlots = 1024;
constexpr std::uint64_t kPoolBytes = Pool::kPoolBytesMin;

class TierState : public TierFixture {
 protected:
  void SetUp() override {
    state_ =
        OfSurvivingKind([](MemoryKind kind) { return State::Create(kSlots, kPoolBytes, kind); });
    if (!state_) GTEST_SKIP() << "no memory outlives a process here";
    handle_ = state_->memory().handle();
  }
  void TearDown() override {
    TierFixture::TearDown();
    tier_.reset();
    if (state_) state_->memory().Remove();
  }

  std::unique_ptr<Memory> Map() {
    Memory::Handle handle = handle_;
    if (handle.kind != MemoryKind::kSysv) handle.number = dup(handle.number);
    auto memory = Memory::Adopt(handle);
    EXPECT_TRUE(memory.ok());
    return std::move(memory.value());
  }
  // What a successor does.
  void AdoptState() {
    auto state = State::Adopt(Map(), kSlots, kPoolBytes);
    ASSERT_TRUE(state.ok()) << state.error().message;
    state.value()->TakeOver();
    config_.slots = kSlots;
    config_.pool_bytes_max = pool_limit_bytes_ = kPoolBytes;
    const std::shared_ptr<State> adopted = std::move(state.value());
    {
      StaleObjects stale(kSlots);
      Pages pages(adopted, &stale);
      ASSERT_TRUE(pages.Recover(config_.boot_seconds()).ok());
      const Outcome fits = pages.Check();
      ASSERT_TRUE(fits.ok()) << fits.error().message;
    }
    auto made = Tier::Create(config_, &remote_, adopted);
    ASSERT_TRUE(made.ok()) << made.error().message;
    tier_ = std::move(made.value());
    words_ = std::vector<std::atomic<SlotWord>>(kSlots);
  }
  std::string Refusal(std::uint64_t slots, std::uint64_t pool_bytes) {
    auto state = State::Adopt(Map(), slots, pool_bytes);
    return state.ok() ? "adopted" : state.error().message;
  }
  std::vector<CgroupId> Owners() {
    std::vector<CgroupId> owners(kSlots);
    tier_->OwnersOf(0, owners);
    return owners;
  }

  std::unique_ptr<State> state_;
  Memory::Handle handle_;
};

TEST_F(TierState, KeepsANote) {
  EXPECT_TRUE(state_->note().empty());
  for (const std::size_t size : {std::size_t{3}, State::kNoteBytesMax, std::size_t{1}}) {
    const std::vector<std::byte> note(size, std::byte{static_cast<unsigned char>(size)});
    EXPECT_TRUE(state_->Note(note));
    auto adopted = State::Adopt(Map(), kSlots, kPoolBytes);
    ASSERT_TRUE(adopted.ok());
    EXPECT_TRUE(std::ranges::equal(adopted.value()->note(), note));
  }
  EXPECT_FALSE(state_->Note(std::vector<std::byte>(State::kNoteBytesMax + 1)));
  EXPECT_EQ(state_->note().size(), 1u);
}

TEST_F(TierState, HasItsPagesGroupsAndCountsWithASuccessor) {
  constexpr CgroupId kAbove = 7;
  constexpr CgroupId kRemoved = 8;
  constexpr CgroupId kOther = 9;
  AdoptState();
  UseWords();
  ASSERT_TRUE(tier_->PlaceCgroup(kAbove, kUnknownCgroup));
  ASSERT_TRUE(tier_->PlaceCgroup(kRemoved, kAbove));
  for (SlotIndex slot = 0; slot < 600; ++slot) {
    KernelWrites(slot, slot % 2 == 0 ? kRemoved : kOther);
    StorePage(slot, 1);
  }
  WriteBack(100);
  for (SlotIndex slot = 0; slot < 30; ++slot) StorePage(slot, 2);
  tier_->Invalidate(500, 10);
  tier_->RemoveCgroup(kRemoved);
  const std::vector<CgroupId> owners = Owners();
  EXPECT_EQ(owners[100], kAbove);
  EXPECT_EQ(owners[101], kOther);
  tier_->StopWriteback();
  const TierStats before = tier_->Stats();

  AdoptState();
  EXPECT_EQ(Owners(), owners);
  const TierStats after = tier_->Stats();
  EXPECT_EQ(after.pages.local, before.pages.local);
  EXPECT_EQ(after.pages.remote, before.pages.remote);
  EXPECT_EQ(after.pages.same_filled, before.pages.same_filled);
  EXPECT_EQ(after.pages.raw, before.pages.raw);
  EXPECT_EQ(after.pool_entry_bytes, before.pool_entry_bytes);
  EXPECT_EQ(after.pool_payload_bytes, before.pool_payload_bytes);
  EXPECT_EQ(Count(Counter::recovered), 590u);
  for (SlotIndex slot = 0; slot < 600; ++slot) {
    if (slot >= 500 && slot < 510) continue;
    ExpectPage(slot, slot < 30 ? 2 : 1);
  }
  // The index of the removed group is free again.
  UseWords();
  KernelWrites(700, kRemoved);
  StorePage(700, 1);
  EXPECT_EQ(Owners()[700], kRemoved);
}

TEST_F(TierState, ThatDoesNotFitIsRefusedWithTheReasonAndStaysAsItIs) {
  const auto memory = Map();
  const std::span bytes(memory->data(), memory->bytes());
  const std::vector<std::byte> before(bytes.begin(), bytes.end());
  EXPECT_EQ(Refusal(kSlots + 1, kPoolBytes),
            "the kept memory is of a device of 1024 pages, not of 1025");
  EXPECT_EQ(Refusal(kSlots, 2 * kPoolBytes),
            "the kept memory is of a device of 4194304 bytes of pool, not of 8388608");
  EXPECT_TRUE(std::ranges::equal(before, bytes));
  // The incarnation, which follows magic, layout and sizes.
  bytes[33] ^= std::byte{1};
  EXPECT_EQ(Refusal(kSlots, kPoolBytes), "the kept memory has a damaged header");
  bytes[33] ^= std::byte{1};
  bytes[0] ^= std::byte{1};
  EXPECT_EQ(Refusal(kSlots, kPoolBytes), "the kept memory is not farswap's");
  bytes[0] ^= std::byte{1};
  EXPECT_EQ(Refusal(kSlots, kPoolBytes), "adopted");
}

}  // namespace
}  // namespace farswap::tier
