// Which replica a fetch asks: a current one, a connected one first, then another one for what it
// did not deliver. What one replica lacks or has damaged, and a later one delivered, is repaired.
#pragma once

#include "placement/replica_set.h"
#include "remote/get_answers.h"
#include "remote/members.h"
#include "remote/shards.h"
#include "remote/target.h"

namespace farswap::remote {

/// The servers' sessions, by member. Any thread, any locks.
class Targets {
 public:
  /// nullptr: the member's store is gone.
  virtual Target* TargetOf(MemberIndex member) const = 0;

 protected:
  ~Targets() = default;
};

class ReplicaReads final : public FetchRouter {
 public:
  ReplicaReads(Shards* shards, const Targets* targets) : shards_(*shards), targets_(*targets) {}

  /// Sends the fetch to a current replica that has not answered yet: a connected one that answers,
  /// another than `slow`, or else any that may come back. False: there is none.
  bool Ask(tier::RemoteFetch* fetch, MemberIndex slow = kNoMember) const;

  void OnAnswered(tier::RemoteFetch* fetch, const GetResults& results) override;
  bool HasReplicas() const override { return shards_.replicas() > 1; }
  bool HasAnother(const tier::RemoteFetch& fetch) const override;
  void MoveOn(tier::RemoteFetch* fetch) override;

 private:
  template <typename Function>
  bool AnyUnasked(const tier::RemoteFetch& fetch, const placement::ReplicaSet& set,
                  Function ask) const;

  void RepairBad(const tier::RemoteFetch& fetch) const;

  Shards& shards_;
  const Targets& targets_;
};

}  // namespace farswap::remote
