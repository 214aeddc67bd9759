// Copysets: distinct failure domains, few sets, and little that changes with a member.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>
#include <vector>

#include "placement/copysets.h"

namespace farswap::placement {
namespace {

std::vector<Peer> Peers(std::size_t count, std::size_t domains) {
  std::vector<Peer> peers;
  for (std::size_t i = 0; i < count; ++i) {
    peers.push_back({.member = static_cast<MemberIndex>(i),
                     .id = HashOf(i, 1),
                     .domain = static_cast<std::uint32_t>(i % domains)});
  }
  return peers;
}

std::set<MemberIndex> MembersOf(std::span<const Copyset> sets) {
  std::set<MemberIndex> members;
  for (const Copyset& set : sets) members.insert(set.All().begin(), set.All().end());
  return members;
}

TEST(Copysets, HaveTheirMembersInDistinctDomains) {
  for (const Copyset& set : MakeCopysets(Peers(40, 5), 3, 4)) {
    ASSERT_EQ(set.count, 3u);
    std::set<std::size_t> domains;
    for (const MemberIndex member : set.All()) domains.insert(member % 5);
    EXPECT_EQ(domains.size(), 3u);
  }
}

TEST(Copysets, AreSmallerWhereThereAreFewerDomains) {
  for (const Copyset& set : MakeCopysets(Peers(10, 2), 3, 2)) EXPECT_EQ(set.count, 2u);
}

TEST(Copysets, AreWidthForEachMember) { EXPECT_EQ(MakeCopysets(Peers(40, 5), 2, 3).size(), 120u); }

TEST(Copysets, OfAHostHaveAtMostFanoutMembers) {
  const auto sets = MakeCopysets(Peers(200, 20), 3, 4);
  for (std::uint64_t host = 0; host < 50; ++host) {
    const std::size_t members = MembersOf(CopysetsOf(host, sets, 32)).size();
    EXPECT_LE(members, 32u);
    EXPECT_GE(members, 30u);
  }
}

TEST(Copysets, OfASmallFleetUseAllOfIt) {
  const auto sets = MakeCopysets(Peers(3, 3), 2, 4);
  EXPECT_EQ(MembersOf(CopysetsOf(7, sets, 32)).size(), 3u);
}

TEST(Copysets, OfHostsTogetherUseEveryMemberAboutEqually) {
  const auto sets = MakeCopysets(Peers(50, 10), 2, 4);
  std::vector<int> uses(50);
  for (std::uint64_t host = 0; host < 1000; ++host) {
    for (const MemberIndex member : MembersOf(CopysetsOf(host, sets, 16))) ++uses[member];
  }
  const auto [least, most] = std::ranges::minmax(uses);
  EXPECT_GT(least, 150) << "of 320 on average";
  EXPECT_LT(most, 640);
}

TEST(Copysets, ChangeLittleWhenAMemberComes) {
  const auto before = MakeCopysets(Peers(100, 100), 2, 4);
  const auto after = MakeCopysets(Peers(101, 101), 2, 4);
  std::size_t changed = 0;
  for (std::size_t i = 0; i < before.size(); ++i) changed += before[i].members != after[i].members;
  EXPECT_LT(changed, before.size() / 20);
}

}  // namespace
}  // namespace farswap::placement
