#include "placement/drops.h"

#include <limits>

namespace farswap::placement {
namespace {

constexpr std::size_t kDropsMax = 16;  // at a time
constexpr ShardIndex kLastShard = std::numeric_limits<ShardIndex>::max();

}  // namespace

void Drops::Add(MemberIndex member, ShardIndex shard, std::uint64_t job) {
  Erase({member, shard});
  drops_[{member, shard}] = {.job = job};
  issue_ = true;
}

void Drops::Erase(Replica replica) {
  const auto drop = drops_.extract(replica);
  if (drop && drop.mapped().under_way) --under_way_;
}

void Drops::ForgetAll(MemberIndex member) {
  auto drop = drops_.lower_bound({member, 0});
  while (drop != drops_.end() && drop->first.first == member) {
    under_way_ -= drop->second.under_way ? 1 : 0;
    drop = drops_.erase(drop);
  }
}

void Drops::Finished(const Action& action, ActionResult result, Time retry_at) {
  const auto found = drops_.find({action.member, action.shard});
  if (found == drops_.end() || found->second.job != action.job || !found->second.under_way) return;
  issue_ = true;
  if (result == ActionResult::kDone) return Erase(found->first);
  found->second.under_way = false;
  --under_way_;
  issue_at_ = retry_at;
}

void Drops::Issue(Time now, const std::function<bool(MemberIndex)>& present,
                  const std::function<bool(MemberIndex, ShardIndex)>& allowed,
                  std::vector<Action>* actions) {
  if (!issue_ || now < issue_at_) return;
  issue_ = false;
  for (auto next = drops_.begin(); next != drops_.end() && under_way_ < kDropsMax;) {
    const auto [member, shard] = next->first;
    if (!present(member)) {
      next = drops_.upper_bound({member, kLastShard});
      continue;
    }
    Drop& drop = next->second;
    ++next;
    if (drop.under_way || !allowed(member, shard)) continue;
    drop.under_way = true;
    ++under_way_;
    actions->push_back(
        {.kind = Action::Kind::kDrop, .shard = shard, .member = member, .job = drop.job});
  }
}

}  // namespace farswap::placement
