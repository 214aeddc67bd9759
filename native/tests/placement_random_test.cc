// Random events, and deaths of the host's process between any two changes of its map, against what
// must hold after each of them, whatever the seed.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <set>
#include <vector>

#include "base/step.h"
#include "placement/planner.h"

namespace farswap {
namespace {

struct Death {};
int steps_left = 0;  // before a death; 0: there is none

}  // namespace

void Reach(Step) {
  if (steps_left > 0 && --steps_left == 0) throw Death();
}

namespace placement {
namespace {

using enum ReplicaState;

constexpr std::size_t kMembers = 7;
constexpr ShardIndex kShards = 12;

constexpr std::size_t kSlots = 4;  // of a shard
using Versions = std::array<std::uint64_t, kSlots>;

// The members' stores, as the versions that they have of each slot.
class World {
 public:
  explicit World(std::uint64_t seed) : random_(seed), replicas_(1 + seed % 3) {
    MakePlanner();
    for (std::size_t i = 0; i < kMembers; ++i) {
      peers_.push_back({.member = static_cast<MemberIndex>(i),
                        .id = HashOf(i, seed),
                        .domain = static_cast<std::uint32_t>(i)});
      ReportOne(static_cast<MemberIndex>(i));
    }
    planner_->UseCopysets(MakeCopysets(peers_, replicas_, 3));
  }

  // Dies at the next but so many changes of the map, or of its recovery.
  void StepOrDie(int changes) {
    steps_left = changes;
    try {
      Step();
    } catch (const Death&) {
      Die();
    }
    steps_left = 0;
  }

  void Step() {
    now_ += Time(static_cast<std::int64_t>(Roll(2000)));
    const auto member = static_cast<MemberIndex>(Roll(kMembers));
    switch (Roll(14)) {
      case 0:
        return GoAway(member);
      case 1:
      case 2:
        return ComeBack(member);
      case 3:
        return Toggle(member);
      case 4:
      case 5:
      case 6:
        return Write(static_cast<ShardIndex>(Roll(kShards)));
      case 7:
        planner_->Move(static_cast<ShardIndex>(Roll(kShards)), member,
                       static_cast<MemberIndex>(Roll(kMembers)));
        return;
      case 8:
        return Roll(8) == 0 ? ChangeReplicas(1 + Roll(3)) : Act();
      case 9:
        return Roll(8) == 0 ? ChangeDomains() : Act();
      default:
        return Act();
    }
  }

  // A successor takes over.
  void Die() {
    actions_.clear();
    steps_left = static_cast<int>(Roll(4));
    MakePlanner();
    try {
      planner_->Recover([this](MemberIndex member) { return peers_[member].domain; });
    } catch (const Death&) {
      return Die();
    }
    steps_left = 0;
    for (ShardIndex shard = 0; shard < kShards; ++shard) {
      EXPECT_EQ(planner_->SetOf(shard).Count(kJoining), 0u);
      for (std::size_t slot = 0; slot < kSlots; ++slot) Undo(shard, slot);
    }
    Check();
    planner_->UseCopysets(MakeCopysets(peers_, replicas_, 3));
    // Sessions find out which members are away.
    std::vector<Peer> members = peers_;
    std::ranges::shuffle(members, random_);
    for (const auto [member, id, domain] : members) {
      if (away_[member]) {
        planner_->MemberAway(member, now_);
      } else {
        Open(member);
      }
      if (Roll(3) == 0) Act();
      Check();
    }
  }

  // Every member comes back, and all that is to be done is done.
  void Settle() {
    for (MemberIndex member = 0; member < kMembers; ++member) {
      leaving_[member] = false;
      ComeBack(member);
      ReportOne(member);
    }
    std::set<std::uint32_t> domains;
    for (const Peer& peer : peers_) domains.insert(peer.domain);
    const bool apart = domains.size() >= replicas_;
    const auto busy = [&] {
      return planner_->debt() > 0 || planner_->jobs() > 0 || AnyUndropped() ||
             (apart && planner_->crowded() > 0);
    };
    for (int i = 0; i < 5000 && busy(); ++i) {
      now_ += Time(100);
      Act();
    }
    EXPECT_EQ(planner_->debt(), 0u);
    EXPECT_TRUE(!apart || planner_->crowded() == 0);
    EXPECT_FALSE(AnyUndropped());
  }

  // Whether a member has pages of a shard that has a full set elsewhere.
  bool AnyUndropped() const {
    for (MemberIndex member = 0; member < kMembers; ++member) {
      for (ShardIndex shard = 0; shard < kShards; ++shard) {
        const bool has = stored_[member][shard] != Versions{};
        if (has && !planner_->SetOf(shard).StateOf(member)) return true;
      }
    }
    return false;
  }

  void Check() const {
    std::uint32_t debt = 0;
    std::uint32_t crowded = 0;
    std::vector<std::uint32_t> replicas(kMembers);
    for (ShardIndex shard = 0; shard < kShards; ++shard) {
      const ReplicaSet set = planner_->SetOf(shard);
      if (written_[shard] != Versions{}) {
        EXPECT_GE(set.Count(kCurrent), 1u) << "no store was lost";
      }
      debt += !set.empty() && set.Count(kCurrent) < replicas_ ? 1 : 0;
      std::set<std::uint32_t> domains;
      bool shared = false;
      for (const Replica& replica : set.All()) {
        if (replica.state == kNone) continue;
        ++replicas[replica.member];
        if (replica.state != kStale) {
          shared |= !domains.insert(peers_[replica.member].domain).second;
        }
        if (replica.state == kCurrent) {
          EXPECT_EQ(stored_[replica.member][shard], written_[shard])
              << "shard " << shard << " on member " << replica.member;
        }
      }
      crowded += shared ? 1 : 0;
    }
    EXPECT_EQ(planner_->debt(), debt);
    EXPECT_EQ(planner_->crowded(), crowded);
    for (MemberIndex member = 0; member < kMembers; ++member) {
      EXPECT_EQ(planner_->ReplicasOn(member), replicas[member]);
    }
  }

 private:
  void MakePlanner() {
    planner_ = std::make_unique<Planner>(PlannerConfig{.shards = kShards,
                                                       .replicas = replicas_,
                                                       .jobs_max = 3,
                                                       .rebalance_every = Time(5000),
                                                       .imbalance_max = 0.05,
                                                       .seed = random_()},
                                         words_);
    listed_.fill(false);
  }

  std::size_t Roll(std::size_t count) {
    return std::uniform_int_distribution<std::size_t>(0, count - 1)(random_);
  }

  void ReportOne(MemberIndex member) {
    planner_->Report(member, {.id = HashOf(member, 1),
                              .domain = peers_[member].domain,
                              .capacity_bytes = 100,
                              .used_bytes = Roll(100),
                              .leaving = leaving_[member]});
  }

  void GoAway(MemberIndex member) {
    away_[member] = true;
    planner_->MemberAway(member, now_);
  }

  void ComeBack(MemberIndex member) {
    if (!away_[member]) return;
    away_[member] = false;
    Open(member);
  }

  void Open(MemberIndex member) {
    planner_->MemberBack(member, Roll(4) > 0);
    ReportOne(member);
    if (std::exchange(listed_[member], true)) return;
    std::vector<std::uint64_t> shards;
    for (ShardIndex shard = 0; shard < kShards; ++shard) {
      if (stored_[member][shard] != Versions{}) shards.push_back(shard);
    }
    planner_->OnListed(member, shards);
  }

  void ChangeReplicas(std::size_t replicas) {
    replicas_ = replicas;
    planner_->SetReplicas(replicas);
    planner_->UseCopysets(MakeCopysets(peers_, replicas, 3));
  }

  // Replicas are spread by another label.
  void ChangeDomains() {
    for (Peer& peer : peers_) {
      peer.domain = static_cast<std::uint32_t>(Roll(kMembers));
      ReportOne(peer.member);
    }
    planner_->UseCopysets(MakeCopysets(peers_, replicas_, 3));
  }

  void Toggle(MemberIndex member) {
    leaving_[member] = !leaving_[member];
    ReportOne(member);
  }

  // To every joining and current replica. A page that did not reach all of them stays with the
  // host, which sends it again to the set that is left.
  void Write(ShardIndex shard) {
    planner_->Place(shard);
    const std::size_t slot = Roll(kSlots);
    const std::uint64_t version = written_[shard][slot] + 1;
    bool kept = false;
    while (!kept) {
      const ReplicaSet set = planner_->SetOf(shard);
      kept = !set.empty();
      for (const Replica& replica : set.All()) {
        if (replica.state != kCurrent && replica.state != kJoining) continue;
        if (!away_[replica.member]) {
          stored_[replica.member][shard][slot] = version;
          continue;
        }
        kept = false;
        planner_->ReplicaMissed(shard, replica.member, now_);
      }
      if (!kept && planner_->SetOf(shard) == set) return Undo(shard, slot);
    }
    written_[shard][slot] = version;
  }

  // No replica can be reached: the page stays with the host.
  void Undo(ShardIndex shard, std::size_t slot) {
    for (auto& store : stored_) {
      store[shard][slot] = std::min(store[shard][slot], written_[shard][slot]);
    }
  }

  void Act() {
    planner_->Tick(now_, &actions_);
    if (actions_.empty()) return;
    const std::size_t index = Roll(actions_.size());
    const Action action = actions_[index];
    // As the host does: a drop waits for other work on the replica.
    const bool waits = std::ranges::any_of(actions_, [&](const Action& other) {
      return other.shard == action.shard && other.member == action.member &&
             other.kind != action.kind;
    });
    if (action.kind == Action::Kind::kDrop && waits) return;
    actions_.erase(actions_.begin() + static_cast<std::ptrdiff_t>(index));
    const bool reached = !away_[action.member] && !away_[action.source];
    ActionResult result = reached ? ActionResult::kDone : ActionResult::kFailed;
    if (action.kind == Action::Kind::kDrop) {
      if (reached && !planner_->SetOf(action.shard).StateOf(action.member)) {
        stored_[action.member][action.shard] = {};
      }
      return planner_->Finished(action, result, now_);
    }
    if (reached && Roll(5) == 0) result = ActionResult::kLater;
    if (action.kind == Action::Kind::kCopy && result == ActionResult::kDone) {
      Versions& to = stored_[action.member][action.shard];
      const Versions& from = stored_[action.source][action.shard];
      for (std::size_t slot = 0; slot < kSlots; ++slot) to[slot] = std::max(to[slot], from[slot]);
    }
    planner_->Finished(action, result, now_, Time(500));
  }

  std::mt19937_64 random_;
  std::size_t replicas_;
  std::vector<Peer> peers_;
  std::vector<std::atomic<std::uint64_t>> words_ = std::vector<std::atomic<std::uint64_t>>(kShards);
  std::unique_ptr<Planner> planner_;
  std::array<bool, kMembers> listed_{};  // by this planner
  Time now_{};
  std::vector<Action> actions_;
  std::array<bool, kMembers> away_{};
  std::array<bool, kMembers> leaving_{};
  std::array<Versions, kShards> written_{};
  std::array<std::array<Versions, kShards>, kMembers> stored_{};
};

TEST(PlannerAtRandom, CurrentReplicasHaveEveryWriteAndDebtsArePaid) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    World world(seed);
    for (int step = 0; step < 400; ++step) {
      world.Step();
      world.Check();
      if (testing::Test::HasFailure()) return;
    }
    world.Settle();
    world.Check();
    if (testing::Test::HasFailure()) return;
  }
}

TEST(PlannerAtRandom, SuccessorsOfAProcessThatDiedAtAnyChangeGoOn) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    World world(seed);
    for (int step = 0; step < 400; ++step) {
      world.StepOrDie(1 + step % 7);
      world.Check();
      if (testing::Test::HasFailure()) return;
    }
    world.Settle();
    world.Check();
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace placement
}  // namespace farswap
