#include "check.h"

#include <random>

#include "faults.h"
#include "fleet.h"

namespace farswap::sim {
namespace {

using namespace std::chrono_literals;

constexpr int kRounds = 3;
constexpr Time kRecovery = 36h;  // after which the longest fault, a day, has ended too
constexpr std::uint64_t kCopySlots = 4;

// Many faults a day in a few servers.
constexpr FaultConfig kFaults{.crash_hours = 12,
                              .outage_hours = 60,
                              .loss_hours = 80,
                              .rack_hours = 50,
                              .straggler_hours = 30,
                              .full_hours = 80,
                              .upgrade_hours = 20,
                              .drain_hours = 12};

FleetConfig Draw(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto from_to = [&](std::size_t least, std::size_t most) {
    return std::uniform_int_distribution<std::size_t>(least, most)(random);
  };
  const std::size_t replicas = from_to(1, 3);
  const std::size_t servers = from_to(replicas + 2, 12);
  return {.servers = servers,
          .newcomers = from_to(0, 3),
          .racks = from_to(1, servers),
          .hosts = from_to(1, 6),
          .shards = from_to(8, 64),
          .replicas = replicas,
          .width = from_to(1, 6),
          .fanout = from_to(12, 32),
          .fill = static_cast<double>(from_to(20, 60)) / 100.0,
          .seed = seed};
}

// After the recovery nothing is owed, and within some days nothing moves any more.
std::string AtRest(Fleet* fleet, const Faults& faults) {
  const auto complain = [](std::uint64_t count, const char* what) {
    return count == 0 ? "" : std::to_string(count) + what + "; ";
  };
  std::string broken = complain(fleet->Debt(), " shards lack a replica");
  broken += complain(faults.drains_under_way(), " drains do not end");
  std::uint64_t moved = 1;
  for (int i = 0; i < 40 && moved > 0; ++i) {
    const std::uint64_t copies = fleet->totals().copies;
    fleet->RunUntil(fleet->now() + 6h);
    moved = fleet->totals().copies - copies;
  }
  broken += complain(moved, " copies in a calm fleet");
  broken += complain(fleet->Jobs(), " replicas still join");
  broken += complain(fleet->Undropped(), " copies are not dropped");
  return broken;
}

}  // namespace

std::string Check(std::uint64_t seed) {
  const FleetConfig config = Draw(seed);
  Fleet fleet(config);
  fleet.FillWithin(1h);
  fleet.RunUntil(2h);
  Faults faults(&fleet, kFaults, config.racks);
  std::string broken;
  for (int round = 0; round < kRounds; ++round) {
    faults.Pause(false);
    fleet.RunUntil(fleet.now() + 24h);
    if (round == 1) fleet.AddNewcomers();
    fleet.RunUntil(fleet.now() + 24h);
    faults.Pause(true);
    fleet.RunUntil(fleet.now() + kRecovery);
    broken += AtRest(&fleet, faults);
  }
  const Totals& totals = fleet.totals();
  if (totals.copies_at_once_max > kCopySlots) broken += "more copies at a server than it grants; ";
  if (totals.lost_alone > 0) broken += std::to_string(totals.lost_alone) + " shards lost alone; ";
  return broken;
}

}  // namespace farswap::sim
