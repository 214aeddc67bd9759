// A simulated fleet: hosts that each run a real placement::Planner, and memory servers that are a
// few numbers each. Time is virtual, one seed decides everything, so a run can be repeated.
//
// What is simulated is what a planner sees: members that come, go and lose their stores; copies
// that take time, are refused or fail; room that runs out. Pages are not: a planner that loses a
// write is found by native/tests/placement_random_test.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "placement/planner.h"

namespace farswap::sim {

using placement::Action;
using placement::ActionResult;
using placement::MemberIndex;
using placement::ShardIndex;
using placement::Time;

struct FleetConfig {
  std::size_t servers = 200;
  std::size_t newcomers = 0;  // servers that are added by AddNewcomers()
  std::size_t racks = 20;
  std::size_t hosts = 1000;
  std::size_t shards = 1024;  // of a host
  std::size_t replicas = 2;
  std::size_t width = 4;    // copysets that each server leads
  std::size_t fanout = 32;  // servers of a host
  double fill = 0.7;        // of all servers' memory, when every shard is placed
  std::uint64_t seed = 1;
};

/// What happened, in total.
struct Totals {
  std::uint64_t bytes_placed = 0;
  std::uint64_t bytes_copied = 0;
  std::uint64_t copies = 0;
  std::uint64_t copies_failed = 0;
  std::uint64_t copies_put_off = 0;  // the target had no copy slot free
  std::uint64_t messages = 0;        // beside heartbeats
  std::uint64_t promoted = 0;        // shards that went on with a stale or joining replica
  std::uint64_t pages_lost = 0;      // of shards without a replica, or promoted ones
  std::uint64_t lost_alone = 0;      // shards lost without faults of as many servers as replicas
  std::uint64_t unplaced = 0;        // first writes that found no room
  std::uint64_t copies_at_once_max = 0;  // at one target
  std::vector<Time> repairs;             // of a host, from a loss until it owed nothing
};

class Fleet {
 public:
  explicit Fleet(const FleetConfig& config);
  Fleet(const Fleet&) = delete;
  Fleet& operator=(const Fleet&) = delete;

  Time now() const { return now_; }
  std::mt19937_64& random() { return random_; }
  std::size_t servers() const { return present_servers_; }
  std::uint32_t RackOf(std::size_t server) const {
    return static_cast<std::uint32_t>(server % config_.racks);
  }

  /// Runs `what` at now() + delay.
  void After(Time delay, std::function<void()> what);
  /// Runs all events up to that time.
  void RunUntil(Time end);

  /// Every host writes all of its shards for the first time within that time.
  void FillWithin(Time duration);

  // Faults. A server that is down twice comes up when both have ended.
  void TakeDown(std::size_t server);
  void BringUp(std::size_t server);
  void Wipe(std::size_t server);  // with it down or up
  void SetSpeed(std::size_t server, double speed) { servers_[server].speed = speed; }
  void SetFull(std::size_t server, bool full);
  void SetLeaving(std::size_t server, bool leaving);
  bool MayDrain(std::size_t server) const;
  void AddNewcomers();

  // Figures.
  std::uint64_t Debt() const;
  std::uint64_t Jobs() const;
  /// Copies of shards on servers that are none of their sets.
  std::uint64_t Undropped() const;
  std::uint64_t Lost() const;
  std::uint64_t ReplicasOn(std::size_t server) const;
  double FullnessOf(std::size_t server) const;
  double MeanFullness() const;
  /// The fullest server's fullness over the mean's.
  double Imbalance() const;
  double HeartbeatsPerSecond() const;
  /// The sets of servers that current replicas of a shard are on, each with the number of shards.
  std::vector<std::pair<placement::ReplicaSet, std::uint64_t>> SetsInUse() const;
  const Totals& totals() const { return totals_; }

 private:
  struct Server {
    std::uint64_t capacity_bytes = 0;
    std::uint64_t used_bytes = 0;
    double speed = 1.0;
    int down = 0;
    Time up_at{};            // since when it is up
    std::uint64_t life = 0;  // counts what ends copies: going down, being wiped
    std::uint64_t copying = 0;
    bool full = false;
    bool leaving = false;
  };
  struct Copy {
    MemberIndex server;
    bool whole = false;  // but for changes
    bool operator==(MemberIndex other) const { return server == other; }
  };
  struct Host {
    std::unique_ptr<placement::Planner> planner;
    std::vector<bool> uses;         // by server
    std::vector<std::size_t> used;  // the same as a list
    std::vector<std::uint64_t> copied_jobs;
    std::optional<Time> owes_since;
    Time tick_at = Time::max();
  };
  struct Event {
    Time at;
    std::uint64_t order;
    std::function<void()> what;
    bool operator>(const Event& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };

  Time Jitter(Time most);
  void Arrange();
  void ReportAll(std::size_t host);
  placement::Member MemberOf(std::size_t server) const;
  void ForHostsOf(std::size_t server, Time detected, const std::function<void(std::size_t)>& what);
  void Promote(std::size_t host, const Action& action);
  void FirstWrite(std::size_t host, ShardIndex shard);
  void Tick(std::size_t host);
  void TickAt(std::size_t host, Time at);
  void Start(std::size_t host, const Action& action);
  void StartCopy(std::size_t host, const Action& action);
  void Finish(std::size_t host, const Action& action, ActionResult result, Time retry = {});
  void NoteDebt(std::size_t host);
  std::size_t Disturbed(std::size_t but) const;
  bool Up(std::size_t server) const { return servers_[server].down == 0; }

  FleetConfig config_;
  std::size_t present_servers_;
  Time now_{};
  std::uint64_t order_ = 0;
  std::vector<Event> events_;  // a heap
  std::vector<Server> servers_;
  std::vector<Host> hosts_;
  // Which servers have bytes of a host's shard, by host and shard: the planner may have forgotten.
  std::vector<std::vector<std::vector<Copy>>> kept_;
  Totals totals_;
  std::mt19937_64 random_;
};

}  // namespace farswap::sim
