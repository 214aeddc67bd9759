// Everything between this host and one memory server: connects, opens the volume if no other host
// has it, keeps the lanes going, and connects again when the connection is lost, until it is
// stopped, fenced, or refused for good.
//
// Threads: one of its own ("fs-remote-N") for connecting, for the put, discard and heartbeat
// lanes, and for deadlines; fetches are sent by their callers and answered on the completion
// thread. Put and Get have a channel, so a TCP connection, each.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "remote/members.h"
#include "remote/session_record.h"
#include "remote/target.h"

namespace farswap::rpc {
class CompletionThreads;
}

namespace farswap::remote {

class OpeningGate;

/// The volume that a host wants to own, and who it is.
struct WantedVolume {
  std::string host_id;    // 1..128 bytes
  std::string device;     // 1..128 bytes
  std::string host_name;  // for people, at most 128 bytes
  std::array<std::byte, 16> incarnation{};
  std::array<std::byte, 16> session_nonce{};  // one a run of the host's daemon
  std::uint64_t slots = 0;
};

struct SessionConfig {
  std::size_t number = 0;  // among the members' sessions; names the thread, seeds the jitter
  WantedVolume volume;
  bool take_over = false;
  std::chrono::milliseconds fetch_wait{};
  std::chrono::milliseconds put_wait{};
  std::chrono::milliseconds open_wait{};
  std::chrono::milliseconds close_wait{};
  std::chrono::milliseconds outage_wait{};
  std::chrono::milliseconds full_wait{};
};

/// What the sessions of a host share. It outlives them.
class SessionPeers {
 public:
  virtual Members& members() = 0;
  virtual OpeningGate& gate() = 0;
  /// The gate has come to its decision.
  virtual void OnDecided() = 0;
  /// The session has another address.
  virtual void OnMoved(std::size_t session) = 0;
  /// The store of the session's former member is gone, with all that it kept.
  virtual void OnStoreGone(std::size_t session, MemberIndex gone) = 0;

 protected:
  ~SessionPeers() = default;
};

class Session : public Target {
 public:
  static std::unique_ptr<Session> Create(const SessionConfig& config, SessionPeers* peers,
                                         rpc::CompletionThreads* completions);

  /// Starts; all of the peers' sessions exist.
  virtual void Start() = 0;
  virtual SessionStatus status() const = 0;

  virtual void OnDecided() = 0;
  virtual void OnMoved() = 0;

  /// To be followed by Stop(): lets several sessions stop at once.
  virtual void BeginStop() = 0;
  /// Answers what is under way with kUnavailable, closes the volume, joins the thread. Idempotent;
  /// the destructor does it too.
  virtual void Stop() = 0;
};

}  // namespace farswap::remote
