// Where the shards of one volume are kept, and every step by which that changes: placement at the
// first write, replicas that fall behind and come back, repair, drain, rebalancing.
//
// The planner does no I/O, owns no thread and reads no clock. Events go in, actions come out, and
// the same events with the same seed give the same actions: daemon and simulator drive this code.
// The host is the only writer of its map, so nothing here needs agreement between hosts.
//
// A replica joins in four steps, each an action that the caller reports as done:
//
//   the set changes   the member is joining: from now on it gets every Put and Discard
//   kSettle           every Put sent to an older set has been answered
//   kCopy             the source has copied the shard, or what changed, to the member
//   kCompare          the host has compared the member's list with its slot table, and corrected it
//   the set changes   the member is current; a replica that it takes the place of leaves
//
// Replicas of a shard are in distinct failure domains while enough domains take shards. Otherwise
// two share one until another domain does.
//
// What must hold:
//   - A shard's last current replica stays current while its member is away: no Put reaches anyone,
//     so it misses none. Only a store that is gone ends it.
//   - A replica is dropped only when the shard has as many current ones as are wanted, and once its
//     member is present. A member without room even for copies drops it as soon as a current one is
//     present: full members would otherwise wait for each other.
//   - A replica that went away is current again at once if nothing was put or discarded since.
//     Until then it counts as the shard's last copy if the stores of all others are gone.
//   - A member where a joining replica missed a Put rests: no replica joins there for
//     `retry_after`, and for twice as long each time, until one has joined. If that would be
//     `repair_after`, the member is replaced.
//   - A member that is away for less than `repair_after` is waited for, and then gets the changes.
//
// A word is true at any instruction of a process that dies: each change is one store, before or
// after which the set lacks nothing that it says it has. What is under way then ends as it must:
//
//   a Put                    its page is the host's again, which replicas may or may not have
//   a Put that some missed   the same: a page leaves the host once every replica of the set has it
//   kJoining                 is stale: it may lack what was there before it joined
//   a drop                   is forgotten; OnListed() finds what it was for
//   untouched                still true: a Put or Discard clears it before it is sent
//
// The caller applies what happened, then calls Tick(), and again at NextTick(). One thread at a
// time; SetOf() is for any thread at any time.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "placement/action.h"
#include "placement/copysets.h"
#include "placement/drops.h"
#include "placement/replica_set.h"

namespace farswap::placement {

struct PlannerConfig {
  std::size_t shards = 0;
  std::size_t replicas = 1;                     // 1 to 3
  std::size_t jobs_max = 2;                     // replicas that join at a time
  Time repair_after = std::chrono::minutes(5);  // a member away for longer is replaced
  Time retry_after = std::chrono::seconds(1);   // no replica joins for so long after one failed to
  Time rebalance_every = std::chrono::minutes(10);
  double imbalance_max = 0.1;  // of fullness between two members, above which a shard moves
  // Of a shard at most; 0: far below what a member holds. A move between two small members would
  // otherwise turn their imbalance round, and the next one back.
  std::uint64_t shard_bytes = 0;
  std::uint64_t seed = 0;
};

/// What is known of a member.
struct Member {
  std::uint64_t id = 0;  // a hash of its uuid
  std::uint32_t domain = 0;
  std::uint64_t capacity_bytes = 0;
  std::uint64_t used_bytes = 0;
  bool full = false;     // takes no new pages
  bool reserve = false;  // takes copies although it is full
  bool leaving = false;  // draining: its shards go elsewhere

  double fullness() const {
    return capacity_bytes == 0
               ? 1.0
               : static_cast<double>(used_bytes) / static_cast<double>(capacity_bytes);
  }
};

/// A member that is away, and what the map has there.
struct AwayMember {
  MemberIndex member = 0;
  std::uint32_t shards = 0;
  std::uint32_t last_shards = 0;  // of these, without a current replica elsewhere
};

class Planner {
 public:
  /// The map is in `words`, one a shard, zero for one that is not placed; by default its own.
  explicit Planner(const PlannerConfig& config, std::span<std::atomic<std::uint64_t>> words = {});

  /// Takes over the map of a process that died; called first, with the failure domains of the
  /// members. These are waited for, and count as away only once MemberAway() says so.
  void Recover(const std::function<std::uint32_t(MemberIndex)>& domain_of);
  /// All that the map names.
  std::set<MemberIndex> Named() const;

  /// The sets that new replicas are placed in. Called when members come or go for good.
  void UseCopysets(std::vector<Copyset> copysets);
  void SetReplicas(std::size_t replicas);

  // Members. A member is present from its first report on.
  void Report(MemberIndex index, const Member& member);
  const Member& Reported(MemberIndex index) const { return members_[index].reported; }
  void MemberAway(MemberIndex index, Time now);
  /// `intact`: everything that it acknowledged is still there.
  void MemberBack(MemberIndex index, bool intact);
  /// Its store is gone, with all replicas on it.
  void MemberGone(MemberIndex index);

  // Shards.
  /// The set that a Put goes to, or a Discard to a shard with pages: what is stale lacks something
  /// from now on. The first Put places the shard. Empty: no member has room.
  ReplicaSet Place(ShardIndex shard);
  /// Copies a shard's replica to another member, which takes its place. Why not; "": begun, also
  /// beyond `jobs_max`.
  std::string Move(ShardIndex shard, MemberIndex from, MemberIndex to);
  /// A Put or Discard did not reach the replica.
  void ReplicaMissed(ShardIndex shard, MemberIndex member, Time now);

  /// After Recover(): the member has objects of these shards. It drops those that it is none of.
  void OnListed(MemberIndex member, std::span<const std::uint64_t> shards);

  /// The outcome of an action; of one that was overtaken it changes nothing.
  void Finished(const Action& action, ActionResult result, Time now, Time retry_after = {});
  /// Appends what is to be done now.
  void Tick(Time now, std::vector<Action>* actions);
  /// When Tick() next has something to do though no event comes.
  Time NextTick(Time now) const;

  ReplicaSet SetOf(ShardIndex shard) const {
    return ReplicaSet(words_[shard].load(std::memory_order_acquire));
  }
  std::uint32_t ReplicasOn(MemberIndex index) const {
    return index < members_.size() ? members_[index].replicas : 0;
  }
  /// Shards with fewer current replicas than wanted.
  std::uint32_t debt() const { return debt_; }
  /// Shards whose last current replica was on a store that is gone.
  std::uint32_t lost() const { return lost_; }
  /// Shards with two current replicas in one failure domain.
  std::uint32_t crowded() const { return crowded_; }
  /// Reads the whole map if a member is away.
  std::vector<AwayMember> Away() const;
  std::size_t jobs() const { return jobs_.size(); }

 private:
  struct State {
    Member reported;
    bool known = false;
    bool away = false;
    bool replaced = false;  // away for longer than repair_after
    Time away_since{};
    std::uint32_t replicas = 0;
    // No replica joins there meanwhile: one that joined missed a Put.
    std::optional<Time> rests_until{};
    Time rest{};  // the length of the last rest; none since a replica has joined

    bool present() const { return known && !away; }
    bool takes_shards() const { return present() && !reported.full && !reported.leaving; }
    bool takes_copies() const { return takes_shards() && !rests_until; }
    bool crammed() const { return reported.full && !reported.reserve; }
    bool has_reserve() const {
      return present() && reported.reserve && !reported.leaving && !rests_until;
    }
  };

  // What a shard is short of, most urgent first.
  enum class Need : std::uint8_t { kPromote, kReplace, kRejoin, kMove, kNothing };
  struct Job {
    std::uint64_t id;
    MemberIndex member;
    std::optional<MemberIndex> leaver;  // of a set that was full: it made room for the member
    bool changes_only;
    std::optional<MemberIndex> retires{};  // of a set with room: leaves once the member is current
    Action::Kind step = Action::Kind::kSettle;
    bool under_way = false;
    Time not_before{};
  };

  Need NeedOf(const ReplicaSet& set) const;
  std::optional<MemberIndex> StaleToPromote(const ReplicaSet& set) const;
  std::optional<MemberIndex> StaleToRejoin(const ReplicaSet& set) const;
  std::optional<MemberIndex> SourceOf(const ReplicaSet& set) const;
  bool ReplaceNow(MemberIndex stale) const;
  std::optional<MemberIndex> Target(const ReplicaSet& set, std::optional<MemberIndex> leaver,
                                    bool by_reserve = false);
  void JoinByReserve(ShardIndex shard, std::optional<MemberIndex> leaver);
  std::optional<MemberIndex> Emptier(std::span<const MemberIndex> members);
  std::optional<MemberIndex> Usual(std::span<const MemberIndex> members,
                                   const ReplicaSet& stays) const;
  bool SharesDomain(MemberIndex member, const ReplicaSet& set) const;
  bool MayMoveApart(const ReplicaSet& set) const;
  std::optional<MemberIndex> Crowding(const ReplicaSet& set) const;

  void Miss(ShardIndex shard, MemberIndex member);
  void Resume(ShardIndex shard, MemberIndex stale);
  void Change(ShardIndex shard, ReplicaSet set);
  void Count(const ReplicaSet& set, std::uint32_t one);
  void Scan();
  void Consider(ShardIndex shard);
  void StartJobs();
  void StartJob(ShardIndex shard);
  void Join(ShardIndex shard, MemberIndex member, std::optional<MemberIndex> leaver,
            bool changes_only, Action::Kind first = Action::Kind::kSettle);
  void SkipToCompare(ShardIndex shard);
  void Complete(ShardIndex shard, const Job& job);
  void Abandon(ShardIndex shard);
  void Trim(ShardIndex shard);
  void TrimRecovered(ShardIndex shard);
  void Drop(ShardIndex shard, MemberIndex member);
  void Rebalance();
  bool MoveOneFrom(MemberIndex fullest);
  State& StateOf(MemberIndex index);
  void Issue(Time now, std::vector<Action>* actions);
  void IssueDrops(Time now, std::vector<Action>* actions);
  std::size_t Pick(std::size_t count);
  std::pair<std::size_t, std::size_t> PickTwo(std::size_t count);

  PlannerConfig config_;
  std::vector<Copyset> copysets_;
  std::vector<MemberIndex> placeable_;  // the members of the copysets, each once
  std::vector<State> members_;          // by index
  std::vector<std::atomic<std::uint64_t>> own_words_;
  std::span<std::atomic<std::uint64_t>> words_;  // those, or the caller's
  std::uint32_t debt_ = 0;
  std::uint32_t lost_ = 0;
  std::uint32_t crowded_ = 0;
  std::vector<std::uint32_t> open_domains_;  // of the copysets' members that take shards

  std::array<std::vector<ShardIndex>, static_cast<std::size_t>(Need::kNothing)> waiting_;
  bool scan_wanted_ = false;
  std::unordered_map<ShardIndex, Job> jobs_;
  Drops drops_;
  std::uint64_t last_job_ = 0;
  Time resume_at_{};  // no job starts before
  Time rebalance_at_{};
  std::mt19937_64 random_;
};

}  // namespace farswap::placement
