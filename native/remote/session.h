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
#include <span>
#include <string>

#include "remote/members.h"
#include "remote/put_part.h"
#include "tier/remote_store.h"

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

enum class SessionState : std::uint8_t {
  kConnecting,   // never connected so far
  kActive,       // connected, the volume is open
  kAway,         // the connection is lost
  kWaiting,      // another host has the volume: asks until it is gone
  kAlreadyOpen,  // the same, for good
  kFenced,       // another host took the volume over: for good
  kDuplicate,    // the same server is used at another address
  kClone,        // a server with the same store is used at another address
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

class Session {
 public:
  Session(const SessionConfig& config, SessionPeers* peers, rpc::CompletionThreads* completions);
  ~Session();  // Stop()

  /// Starts; all of the peers' sessions exist.
  void Start();

  /// Takes the part; false, if the server is fenced off, stopped, long away or not the part's
  /// member: it is kUnavailable.
  bool Put(PutPart* part);
  /// Takes the fetch; false, if the server is fenced off, stopped or not the member.
  bool Get(tier::RemoteFetch* fetch, MemberIndex member);
  /// See tier::RemoteStore.
  bool TakesDiscards() const;
  void Discard(std::span<const tier::DiscardItem> items);

  /// The member whose volume is open; kNoMember: not connected.
  MemberIndex connected_member() const;
  /// Connected, and has not just said that it is full.
  bool writable() const;
  /// The same, and new shards may be placed there.
  bool placeable() const;
  std::uint64_t free_bytes() const;

  struct Status {
    SessionState state;
    MemberIndex member;  // the last one that was connected
    std::uint64_t capacity_bytes;
    std::uint64_t used_bytes;
    std::uint64_t epoch;
    std::uint64_t reconnects;
    std::string last_error;
    std::uint64_t disconnected_ms;  // 0 when connected
    std::string uuid;               // hexadecimal; "": not known
    std::string owner_name;         // of another host that has the volume, as far as is known
    std::string owner_address;
    std::uint64_t unclean_restarts;  // the server's machine died: acknowledged pages may be missing
  };
  Status status() const;

  void OnDecided();
  void OnMoved();

  /// To be followed by Stop(): lets several sessions stop at once.
  void BeginStop();
  /// Answers what is under way with kUnavailable, closes the volume, joins the thread. Idempotent.
  void Stop();

 private:
  class Worker;
  std::unique_ptr<Worker> worker_;
};

}  // namespace farswap::remote
