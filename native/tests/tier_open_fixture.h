// A tier of 1,024 slots whose slot table and pool are at hand, for what no caller can bring about.
#pragma once

#include <memory>
#include <utility>

#include "tier/tier.h"
#include "tier_fixture.h"

namespace farswap::tier {

class OpenTierFixture : public TierFixture {
 protected:
  void SetUp() override {
    config_.slots = 1024;
    config_.pool_bytes_max = Pool::kPoolBytesMin;
    auto pool = Pool::Create(config_.pool_bytes_max);
    auto table = SlotTable::Create(config_.slots);
    auto arenas = Writeback::CreateArenas();
    ASSERT_TRUE(pool.ok() && table.ok() && arenas.ok());
    pool_ = pool.value().get();
    table_ = table.value().get();
    tier_ = std::make_unique<Tier>(config_, &remote_, std::move(table.value()),
                                   std::move(pool.value()), std::move(arenas.value()));
  }

  // Of the tier.
  Pool* pool_ = nullptr;
  SlotTable* table_ = nullptr;
};

}  // namespace farswap::tier
