#include "faults.h"

#include <random>
#include <utility>

namespace farswap::sim {

using namespace std::chrono_literals;

Faults::Faults(Fleet* fleet, const FaultConfig& config, std::size_t racks) : fleet_(*fleet) {
  const auto servers = static_cast<double>(fleet_.servers());
  Repeatedly(config.crash_hours / servers, [this] { Outage(AnyServer(), Between(30s, 2min)); });
  Repeatedly(config.outage_hours / servers, [this] { Outage(AnyServer(), Between(30min, 6h)); });
  Repeatedly(config.loss_hours / servers, [this] {
    const std::size_t server = AnyServer();
    ++losses_;
    Outage(server, 1h);
    fleet_.Wipe(server);
  });
  Repeatedly(config.rack_hours / static_cast<double>(racks), [this, racks] {
    const auto rack = fleet_.random()() % racks;
    const Time duration = Between(10min, 40min);
    for (std::size_t server = 0; server < fleet_.servers(); ++server) {
      if (fleet_.RackOf(server) == rack) Outage(server, duration);
    }
  });
  Repeatedly(config.straggler_hours / servers, [this] {
    const std::size_t server = AnyServer();
    fleet_.SetSpeed(server, 0.05);
    fleet_.After(1h, [this, server] { fleet_.SetSpeed(server, 1.0); });
  });
  Repeatedly(config.full_hours / servers, [this] {
    const std::size_t server = AnyServer();
    fleet_.SetFull(server, true);
    fleet_.After(24h, [this, server] { fleet_.SetFull(server, false); });
  });
  Repeatedly(config.upgrade_hours, [this] { Upgrade(0); });
  Repeatedly(config.drain_hours, [this] {
    const std::size_t server = AnyServer();
    if (!fleet_.MayDrain(server)) return;
    fleet_.SetLeaving(server, true);
    ++drains_under_way_;
    WatchDrain(server, fleet_.now());
  });
}

std::size_t Faults::AnyServer() { return fleet_.random()() % fleet_.servers(); }

Time Faults::Between(Time least, Time most) {
  return Time(
      std::uniform_int_distribution<std::int64_t>(least.count(), most.count())(fleet_.random()));
}

// At exponential intervals.
void Faults::Repeatedly(double mean_hours, std::function<void()> fault) {
  if (mean_hours <= 0.0) return;
  const double hours = std::exponential_distribution<>(1.0 / mean_hours)(fleet_.random());
  fleet_.After(Time(static_cast<std::int64_t>(hours * 3.6e6)),
               [this, mean_hours, fault = std::move(fault)] {
                 if (!paused_) fault();
                 Repeatedly(mean_hours, fault);
               });
}

void Faults::Outage(std::size_t server, Time duration) {
  fleet_.TakeDown(server);
  fleet_.After(duration, [this, server] { fleet_.BringUp(server); });
}

// One server after another, each down for a minute.
void Faults::Upgrade(std::size_t server) {
  if (paused_ || server >= fleet_.servers()) return;
  Outage(server, 1min);
  fleet_.After(3min, [this, server] { Upgrade(server + 1); });
}

void Faults::WatchDrain(std::size_t server, Time since) {
  if (fleet_.ReplicasOn(server) > 0) {
    fleet_.After(1min, [this, server, since] { WatchDrain(server, since); });
    return;
  }
  --drains_under_way_;
  drains_.push_back(fleet_.now() - since);
  fleet_.SetLeaving(server, false);
}

}  // namespace farswap::sim
