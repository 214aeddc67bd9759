// What outlives a worker of nbd_takeover_test beside the tier's state, in memory that is shared by
// descriptor.
#pragma once

#include <linux/io_uring.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>

#include "base/liveness.h"
#include "nbd/connection_state.h"
#include "tier_crash_world.h"

namespace farswap::nbd {

/// A READ of it ends the process, if the world is poisoned.
inline constexpr tier::SlotIndex kPoisonedSlot = tier::kCrashSlots - 1;

/// Where the dead workers were, for their successors.
struct TakeoverCounts {
  std::atomic<std::uint64_t> takeovers;
  std::atomic<std::uint64_t> behind;         // positions that the dead one had not written
  std::atomic<std::uint64_t> received;       // bytes received, and not answered
  std::atomic<std::uint64_t> ready;          // replies built
  std::atomic<std::uint64_t> partly_sent;    // and partly sent
  std::atomic<std::uint64_t> parked_reads;   // requests
  std::atomic<std::uint64_t> parked_writes;  // requests
  std::atomic<std::uint64_t> half_writes;    // within a payload
};

struct TakeoverWorld {
  Liveness liveness;
  std::atomic<pid_t> serving;
  std::atomic<bool> poisoned;
  TakeoverCounts counts;
  tier::CrashWorld servers;
  io_uring_params ring;
  alignas(tier::kPageBytes) ConnectionState connection;
};

}  // namespace farswap::nbd
