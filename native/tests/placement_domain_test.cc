// Failure domains: which members a shard's replicas are on while domains come, go and change.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "placement/planner.h"

namespace farswap::placement {
namespace {

using enum ReplicaState;
using namespace std::chrono_literals;

constexpr ShardIndex kShards = 60;

class DomainTest : public ::testing::Test {
 protected:
  // Member i is in domains[i], with a tenth used.
  void Make(std::size_t replicas, const std::vector<std::uint32_t>& domains) {
    replicas_ = replicas;
    planner_ = std::make_unique<Planner>(PlannerConfig{
        .shards = kShards, .replicas = replicas, .jobs_max = 2, .rebalance_every = 10s, .seed = 1});
    for (const std::uint32_t domain : domains) Add(domain);
  }

  void Add(std::uint32_t domain) {
    const std::size_t index = members_.size();
    members_.push_back(
        {.id = HashOf(index, 9), .domain = domain, .capacity_bytes = 1000, .used_bytes = 100});
    ReportAll();
  }

  void ReportAll() {
    std::vector<Peer> peers;
    for (std::size_t i = 0; i < members_.size(); ++i) {
      const auto index = static_cast<MemberIndex>(i);
      planner_->Report(index, members_[i]);
      peers.push_back({.member = index, .id = members_[i].id, .domain = members_[i].domain});
    }
    planner_->UseCopysets(MakeCopysets(peers, replicas_, 4));
  }

  void PlaceAll() {
    for (ShardIndex shard = 0; shard < kShards; ++shard) planner_->Place(shard);
  }

  // Does all that there is to do, each step at once. Returns how many replicas joined.
  std::size_t Work() {
    std::size_t joined = 0;
    std::vector<Action> actions;
    for (planner_->Tick(now_, &actions); !actions.empty(); planner_->Tick(now_, &actions)) {
      const std::vector<Action> todo = std::exchange(actions, {});
      for (const Action& action : todo) {
        joined += action.kind == Action::Kind::kCompare ? 1 : 0;
        planner_->Finished(action, ActionResult::kDone, now_);
      }
      EXPECT_LT(joined, 1000u) << "moves without end";
      if (joined >= 1000) break;
    }
    return joined;
  }

  // Fullness follows the replicas, as on real servers.
  std::size_t WorkThroughRebalances(int times) {
    std::size_t joined = 0;
    for (int i = 0; i < times; ++i) {
      for (std::size_t member = 0; member < members_.size(); ++member) {
        members_[member].used_bytes = 10 * planner_->ReplicasOn(static_cast<MemberIndex>(member));
        planner_->Report(static_cast<MemberIndex>(member), members_[member]);
      }
      now_ += 20s;
      joined += Work();
    }
    return joined;
  }

  std::size_t Crowded() const {
    std::size_t crowded = 0;
    for (ShardIndex shard = 0; shard < kShards; ++shard) {
      std::vector<std::uint32_t> domains;
      for (const Replica& replica : planner_->SetOf(shard).All()) {
        if (replica.state == kCurrent) domains.push_back(members_[replica.member].domain);
      }
      std::ranges::sort(domains);
      crowded += std::ranges::adjacent_find(domains) != domains.end() ? 1 : 0;
    }
    EXPECT_EQ(planner_->crowded(), crowded);
    return crowded;
  }

  std::size_t replicas_ = 0;
  std::unique_ptr<Planner> planner_;
  std::vector<Member> members_;
  Time now_ = 1h;
};

TEST_F(DomainTest, TwoReplicasNeverShareADomainWhileThereAreTwo) {
  Make(2, {7, 7, 8});
  PlaceAll();
  EXPECT_EQ(Crowded(), 0u);
  EXPECT_EQ(planner_->ReplicasOn(2), kShards);
  WorkThroughRebalances(10);
  EXPECT_EQ(Crowded(), 0u);
}

TEST_F(DomainTest, ADrainKeepsReplicasApart) {
  Make(2, {7, 7, 8, 8});
  PlaceAll();
  members_[0].leaving = true;
  ReportAll();
  Work();
  EXPECT_EQ(planner_->ReplicasOn(0), 0u);
  EXPECT_EQ(Crowded(), 0u);
}

TEST_F(DomainTest, ARepairKeepsReplicasApart) {
  Make(2, {7, 7, 8, 8});
  PlaceAll();
  planner_->MemberGone(3);
  Work();
  EXPECT_EQ(planner_->debt(), 0u);
  EXPECT_EQ(Crowded(), 0u);
}

TEST_F(DomainTest, ReplicasShareTheOnlyDomainAndMoveApartOnceThereIsAnother) {
  Make(2, {7, 7});
  PlaceAll();
  EXPECT_EQ(Crowded(), kShards) << "better than one replica";
  EXPECT_EQ(planner_->debt(), 0u);
  EXPECT_EQ(Work(), 0u);
  Add(8);
  EXPECT_EQ(Work(), kShards) << "one of each shard's";
  EXPECT_EQ(Crowded(), 0u);
  EXPECT_EQ(planner_->ReplicasOn(2), kShards);
}

TEST_F(DomainTest, ReplicasMoveApartWhenTheirServersGetOneLabel) {
  Make(3, {1, 2, 3, 4});
  PlaceAll();
  members_[0].domain = 2;
  ReportAll();
  EXPECT_GT(planner_->crowded(), 0u);
  const std::uint32_t crowded = planner_->crowded();
  EXPECT_EQ(Work(), crowded);
  EXPECT_EQ(Crowded(), 0u);
  EXPECT_EQ(planner_->debt(), 0u);
}

TEST_F(DomainTest, ReplicasStayTogetherWhileTheOtherDomainIsFull) {
  Make(2, {7, 7});
  PlaceAll();
  Add(8);
  members_[2].full = true;
  ReportAll();
  EXPECT_EQ(Work(), 0u);
  members_[2].full = false;
  ReportAll();
  EXPECT_EQ(Work(), kShards);
}

TEST_F(DomainTest, ANewMemberFillsUpWithinItsDomain) {
  Make(2, {7, 8});
  PlaceAll();
  Add(7);
  WorkThroughRebalances(30);
  EXPECT_EQ(Crowded(), 0u);
  EXPECT_EQ(planner_->ReplicasOn(1), kShards) << "the only one of its domain";
  EXPECT_NEAR(planner_->ReplicasOn(2), kShards / 2, 10);
  EXPECT_EQ(WorkThroughRebalances(10), 0u) << "and then it is quiet";
}

TEST_F(DomainTest, ANewMemberFillsUpWhereAllShareADomain) {
  Make(2, {7, 7, 7});
  PlaceAll();
  Add(7);
  WorkThroughRebalances(60);
  EXPECT_GT(planner_->ReplicasOn(3), kShards / 5);
}

TEST_F(DomainTest, AMoveThatWouldBeUndoneIsRefused) {
  Make(2, {0, 1, 1, 2});
  planner_->Place(0);
  ASSERT_EQ(Work(), 0u);
  const ReplicaSet set = planner_->SetOf(0);
  // Of the members in the domain of one replica, where the other one would move to.
  for (MemberIndex to = 0; to < 4; ++to) {
    if (set.StateOf(to)) continue;
    for (const MemberIndex from : {set.At(0).member, set.At(1).member}) {
      const MemberIndex other = from == set.At(0).member ? set.At(1).member : set.At(0).member;
      const bool shares = members_[to].domain == members_[other].domain;
      if (!shares) continue;
      EXPECT_EQ(planner_->Move(0, from, to),
                "another replica of the shard is in the target's failure domain");
      EXPECT_EQ(planner_->SetOf(0), set);
      return;
    }
  }
  GTEST_FAIL() << "no replica is in the domain of two members";
}

}  // namespace
}  // namespace farswap::placement
