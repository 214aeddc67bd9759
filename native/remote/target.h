// A place of shards: a memory server behind a Session. Any thread may call it.
#pragma once

#include <cstdint>
#include <span>

#include "placement/planner.h"
#include "remote/members.h"
#include "remote/put_part.h"
#include "tier/remote_store.h"

namespace farswap::remote {

class Target {
 public:
  virtual ~Target() = default;

  /// Takes the part. False when the target is fenced off, stopped, long away or not the part's
  /// member: its objects are kUnavailable.
  virtual bool Put(PutPart* part) = 0;
  /// Takes the fetch. False when the target is fenced off, stopped or not the member.
  virtual bool Get(tier::RemoteFetch* fetch, MemberIndex member) = 0;
  /// See tier::RemoteStore.
  virtual bool TakesDiscards() const = 0;
  virtual void Discard(std::span<const tier::DiscardItem> items) = 0;

  /// The member whose volume is open; kNoMember: not connected.
  virtual MemberIndex connected_member() const = 0;
  /// Fetches have been waiting for outage_wait, and none was answered.
  virtual bool stalled() const = 0;
  /// Connected, and not known to be full.
  virtual bool writable() const = 0;
  /// For placement; without its identity.
  virtual placement::Member report() const = 0;
};

}  // namespace farswap::remote
