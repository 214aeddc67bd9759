// The connection to one memory server: connects, opens the volume if no other host has it, services
// the lanes, and reconnects, until it is stopped, fenced, or permanently refused.
//
// Threads: "fs-remote-N" connects, runs the put, discard and heartbeat lanes, and watches
// deadlines. Callers send fetches; the completion thread answers them. Put and Get have separate
// channels, so separate TCP connections. So has Session: the server's thread for heartbeats would
// wake up for each fetch if they shared a connection.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "remote/config.h"
#include "remote/damage_reports.h"
#include "remote/get_answers.h"
#include "remote/members.h"
#include "remote/placement_info.h"
#include "remote/session_record.h"
#include "remote/target.h"

namespace farswap::rpc {
class CompletionThreads;
}

namespace farswap::remote {

class OpeningGate;

struct SessionConfig {
  std::size_t number = 0;  // among the members' sessions; names the thread, seeds the jitter
  const ClusterConfig* cluster = nullptr;
  std::string host_name;                      // for people, at most 128 bytes
  std::array<std::byte, 16> session_nonce{};  // one per run of the host's daemon
  MemberIndex member = kNoMember;             // of a process that died: it was at the address
};

/// A server, and the volume that is open there.
struct OpenedAt {
  std::string address;
  OpenedVolume volume;
};

/// Shared by a host's sessions, which it outlives.
class SessionPeers {
 public:
  virtual Members& members() = 0;
  virtual OpeningGate& gate() = 0;
  /// The gate has decided.
  virtual void OnDecided() = 0;
  /// The session has another address.
  virtual void OnMoved(std::size_t session) = 0;
  /// The store of the session's former member is gone, with its objects.
  virtual void OnStoreGone(std::size_t session, MemberIndex gone) = 0;
  /// An operator says that the store never comes back.
  virtual void OnRemoved(const ServerId& uuid) = 0;
  /// The volume is open at the member, or the member answers again. `intact`: all that it
  /// acknowledged is still there.
  virtual void OnOpened(MemberIndex member, bool intact) = 0;
  /// The member has been away, or has answered no Put, for outage_wait.
  virtual void OnAway(MemberIndex member) = 0;
  virtual PlacementInfo PlacementOn(MemberIndex member) const = 0;
  /// The member's reports of damage, and those of which all shards have been compared.
  virtual void OnDamage(MemberIndex member, const std::vector<DamageReports::Report>& reports) = 0;
  virtual std::vector<DamageReports::Compared> ComparedOn(MemberIndex member) const = 0;
  /// Wanted of each page.
  virtual std::size_t replicas() const = 0;
  virtual FetchRouter& router() = 0;

 protected:
  ~SessionPeers() = default;
};

class Session : public Target {
 public:
  static std::unique_ptr<Session> Create(const SessionConfig& config, SessionPeers* peers,
                                         rpc::CompletionThreads* completions);

  /// Starts, after all sessions were made.
  virtual void Start() = 0;
  virtual SessionStatus status() const = 0;
  /// Where the volume is open; nothing: not connected.
  virtual std::optional<OpenedAt> opened() const = 0;

  virtual void OnDecided() = 0;
  virtual void OnMoved() = 0;
  /// An operator removed the store of its member, which is silent.
  virtual void OnRemoved() = 0;
  /// A list of servers has its address again, or its new one.
  virtual void OnListed() = 0;

  /// Call it before Stop(), to stop several sessions in parallel.
  virtual void BeginStop() = 0;
  /// Answers pending calls with kUnavailable, closes the volume, joins the thread. Idempotent; the
  /// destructor calls it.
  virtual void Stop() = 0;
};

}  // namespace farswap::remote
