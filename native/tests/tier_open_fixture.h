// A tier of 1,024 slots whose slot table and pool are at hand, for what no caller can bring about.
#pragma once

#include <memory>
#include <span>
#include <utility>

#include "tier/tier.h"
#include "tier_fixture.h"

namespace farswap::tier {

class OpenTierFixture : public TierFixture {
 protected:
  void SetUp() override {
    config_.slots = 1024;
    config_.pool_bytes_max = Pool::kPoolBytesMin;
    auto state = State::Create(config_.slots, config_.pool_bytes_max);
    ASSERT_TRUE(state.ok());
    records_ = state.value()->slots();
    auto made = Tier::Create(config_, &remote_, std::move(state.value()));
    ASSERT_TRUE(made.ok());
    tier_ = std::move(made.value());
    pages_ = static_cast<Pages*>(tier_->stored_objects());
  }

  // Of the tier.
  Pages* pages_ = nullptr;
  std::span<SlotRecord> records_;
};

}  // namespace farswap::tier
