// What goes wrong in a simulated fleet, and what operators do to it: all drawn from the fleet's
// seed.
#pragma once

#include <functional>
#include <vector>

#include "fleet.h"

namespace farswap::sim {

/// Mean times between, of one server or rack; 0 hours: never.
struct FaultConfig {
  double crash_hours = 10 * 24;      // restarted within 2 minutes
  double outage_hours = 60 * 24;     // away for half an hour to 6 hours
  double loss_hours = 180 * 24;      // its store is lost; an empty one comes an hour later
  double rack_hours = 90 * 24;       // away for 10 to 40 minutes, all at once
  double straggler_hours = 50 * 24;  // copies at a 20th of its speed for an hour
  double full_hours = 100 * 24;      // refuses pages for a day
  double upgrade_hours = 7 * 24;     // all servers restart, one after another
  double drain_hours = 3 * 24;       // one server is drained, then taken back
};

class Faults {
 public:
  /// The fleet outlives it, and the events that it makes refer to it. Faults begin at once.
  Faults(Fleet* fleet, const FaultConfig& config, std::size_t racks);
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;

  /// While it is paused, no fault begins. Those that last end in their time.
  void Pause(bool paused) { paused_ = paused; }

  /// Of drains: from the order until no replica was left.
  const std::vector<Time>& drains() const { return drains_; }
  std::size_t drains_under_way() const { return drains_under_way_; }
  std::size_t losses() const { return losses_; }

 private:
  std::size_t AnyServer();
  Time Between(Time least, Time most);
  void Repeatedly(double mean_hours, std::function<void()> fault);
  void Outage(std::size_t server, Time duration);
  void Upgrade(std::size_t server);
  void WatchDrain(std::size_t server, Time since);

  Fleet& fleet_;
  std::vector<Time> drains_;
  std::size_t drains_under_way_ = 0;
  std::size_t losses_ = 0;
  bool paused_ = false;
};

}  // namespace farswap::sim
