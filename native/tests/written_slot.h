// What a test that is killed has written, in memory that outlives it.
#pragma once

#include <atomic>

#include "stamped_page.h"

namespace farswap::tier {

/// Which stamps a slot's page may have: that of the last write that was answered, or that of one
/// that was not.
struct WrittenSlot {
  std::atomic<Stamp> answered;
  std::atomic<Stamp> begun;
};

}  // namespace farswap::tier
