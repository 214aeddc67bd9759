// The replicas of a volume's shards: the placement planner, driven by what the sessions report, and
// the work that it orders. The host is the only writer of its map.
//
// SetOf() is for the data path, without a lock. The thread "fs-remote-plan" runs the planner and
// reports to it; ShardCopier does what needs the network.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "placement/planner.h"
#include "remote/damage_reports.h"
#include "remote/members.h"
#include "remote/placement_info.h"
#include "remote/put_eras.h"
#include "remote/put_part.h"
#include "remote/repair_queue.h"
#include "remote/shard_copier.h"
#include "tier/page.h"

namespace farswap::remote {

/// What Shards needs of the servers' sessions. Called with its lock held.
class ShardServers {
 public:
  struct Report {
    MemberIndex index;
    placement::Member member;
  };
  /// Of the members that are connected.
  virtual std::vector<Report> Reports() const = 0;
  /// Of any member.
  virtual placement::Peer PeerOf(MemberIndex member) const = 0;
  /// Nothing: the member is not connected.
  virtual std::optional<OpenedServer> WhereIs(MemberIndex member) const = 0;

 protected:
  ~ShardServers() = default;
};

struct ShardsConfig {
  std::uint64_t slots = 0;
  std::string host_id;
  std::size_t replicas = 1;  // 1 to 3
  std::chrono::milliseconds repair_after{};
  std::chrono::milliseconds rebalance_every{};
  std::uint64_t seed = 0;
  std::span<std::atomic<std::uint64_t>> words{};  // the map; none: its own
};

class Shards final : public PutObserver, private ShardCopier::Owner {
 public:
  Shards(const ShardsConfig& config, const ShardServers* servers);
  ~Shards();  // after Stop()

  /// Members that the map names.
  std::set<MemberIndex> Named() const { return planner_.Named(); }
  /// Takes over the map of a process that died. Before Start().
  void Recover();

  void Start();
  /// Cancels all work. Idempotent.
  void Stop();

  static placement::ShardIndex ShardOf(tier::ObjectKey key) {
    return static_cast<placement::ShardIndex>(tier::FirstSlotOf(key) / tier::kShardSlots);
  }

  // Any thread.

  /// Empty: the object's shard is not placed, not on the device, or lost.
  placement::ReplicaSet SetOf(tier::ObjectKey key) const {
    const placement::ShardIndex shard = ShardOf(key);
    return shard < shards_ ? planner_.SetOf(shard) : placement::ReplicaSet{};
  }
  /// See Planner.
  placement::ReplicaSet Place(tier::ObjectKey key);
  /// The set that a Put or Discard of the object goes to.
  placement::ReplicaSet SetToChange(tier::ObjectKey key) {
    const placement::ReplicaSet set = SetOf(key);
    return set.untouched() ? Place(key) : set;
  }
  /// A Put begins, before it reads a set; returns its era.
  std::uint64_t BeginPut() { return eras_.Begin(); }

  /// Called before the first Put. Used until Stop(). Nothing is copied, compared or dropped before.
  void CompareWith(tier::StoredObjects* objects);
  /// See Planner.
  void SetReplicas(std::size_t replicas);
  /// The domains of all members, also of those that are away.
  void OnSpreadChanged();
  std::string Move(placement::ShardIndex shard, MemberIndex from, MemberIndex to);
  std::size_t replicas() const { return replicas_; }
  std::size_t count() const { return shards_; }

  void OnOpened(MemberIndex member, bool intact);
  void OnAway(MemberIndex member);
  /// Returns how many shards were on that member alone.
  std::uint32_t OnStoreGone(MemberIndex member);

  /// Has the object copied, soon, if both replicas are current. Takes no lock that is held for
  /// long.
  void Repair(const RepairQueue::Object& object) { repairs_.Add(object); }

  /// Reports of a server's, of shards to be compared; see DamageReports.
  void OnDamage(MemberIndex member, const std::vector<DamageReports::Report>& reports);
  std::vector<DamageReports::Compared> ComparedOn(MemberIndex member) const {
    return damage_.ComparedOn(member);
  }

  /// `here` is of the member.
  PlacementInfo status(MemberIndex member) const;

 private:
  using Clock = std::chrono::steady_clock;

  bool IsCurrent(tier::ObjectKey key, MemberIndex member) const override {
    return SetOf(key).StateOf(member) == placement::ReplicaState::kCurrent;
  }
  void OnPartDone(const PutPart& part) override;
  void OnPutEnded(std::uint64_t era) override;
  void OnWorkDone(const FinishedWork& work) override;
  bool MayDrop(const placement::Action& action) const override;

  void Run();
  void TakeReports();
  void UpdateCopysets();
  struct Waiting {
    placement::Action action;  // kSettle or kDrop
    std::uint64_t era;
  };

  // Of a shard's only current replica, whose store may have lost objects: they are counted.
  struct Check {
    placement::ShardIndex shard;
    MemberIndex member;
  };

  void BeginList();
  bool IsOnlyCurrent(const Check& check) const;
  bool Settled(const Waiting& waiting) const;
  void Begin(const placement::Action& action);
  void BeginWork(const placement::Action& action, std::vector<std::uint64_t> repairs = {},
                 bool list = false);
  void BeginRepair(placement::Time now);
  void EndRepair(const FinishedWork& work, placement::Time now);
  void BeginComparison(placement::Time now);
  bool BeginComparisonOf(const DamageReports::Comparison& comparison, bool* again);
  void EndComparison(const FinishedWork& work, placement::Time now);
  void BeginCheck(placement::Time now);
  void EndSettled(placement::Time now);
  void EndWork(placement::Time now);
  void Wake();

  static placement::Time Now() {
    return std::chrono::duration_cast<placement::Time>(Clock::now().time_since_epoch());
  }

  const std::size_t shards_;
  std::atomic<std::size_t> replicas_;
  const std::uint64_t host_;
  const ShardServers& servers_;
  PutEras eras_;
  RepairQueue repairs_;
  DamageReports damage_;

  mutable std::mutex mutex_;  // guards all below, but for planner_.SetOf()
  std::condition_variable changed_;
  placement::Planner planner_;
  std::vector<placement::Peer> peers_;  // members with a store that is not gone
  std::size_t domains_ = 0;             // of these
  std::set<MemberIndex> leaving_;       // draining: no copyset has them
  std::vector<Waiting> waiting_;
  std::vector<placement::Action> working_;  // in copier_
  std::vector<FinishedWork> finished_;
  std::size_t repairing_ = 0;  // objects in copier_
  placement::Time repair_at_{};
  placement::Time compare_at_{};
  std::uint64_t repaired_objects_ = 0;
  std::uint64_t failed_repairs_ = 0;
  std::vector<placement::AwayMember> away_;  // as it was a moment ago
  placement::Time away_at_{};                // the next look
  tier::StoredObjects* objects_ = nullptr;
  std::deque<Check> checks_;  // the first one is under way if check_begun_
  bool check_begun_ = false;
  placement::Time check_at_{};
  bool recovered_ = false;
  std::set<MemberIndex> listed_;      // or to be, since the recovery
  std::deque<MemberIndex> unlisted_;  // the first one is under way if list_begun_
  bool list_begun_ = false;
  std::uint64_t missing_pages_ = 0;
  bool wake_ = false;
  bool stopping_ = false;
  ShardCopier copier_;
  std::thread thread_;  // last: uses all of the above
};

}  // namespace farswap::remote
