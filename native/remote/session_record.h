// State of one memory server and of the host's session with it, for operators and the session.
// Thread-safe; its lock is a leaf.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "remote/lane.h"
#include "remote/members.h"

namespace farswap::v1 {
class OpenVolumeResponse;
}

namespace farswap::remote {

enum class SessionState : std::uint8_t {
  kConnecting,   // not yet connected
  kActive,       // connected, the volume is open
  kAway,         // the connection is lost
  kWaiting,      // another host has the volume: retries until it is gone
  kAlreadyOpen,  // the same, permanently
  kFenced,       // another host took over the volume; permanent
  kDuplicate,    // the same server is used at another address
  kClone,        // a server with the same store is used at another address
  kRemoved,      // an operator removed the store; the server answers
  kForgotten,    // the same, and it is silent; or nothing is expected at the address
};

/// For operators.
const char* NameOf(SessionState state);

struct SessionStatus {
  bool connected() const { return state == SessionState::kActive; }

  SessionState state;
  MemberIndex member;            // the last connected one
  std::uint64_t capacity_bytes;  // set by the session, as the next two
  std::uint64_t used_bytes;
  bool at_quota;  // the server refuses pages of this volume, and takes others
  std::uint64_t epoch;
  std::uint64_t reconnects;
  std::string last_error;         // why the last connection ended or failed
  std::uint64_t disconnected_ms;  // 0 if connected
  std::string uuid;               // hexadecimal; "": unknown
  std::string owner_name;         // of another host that has the volume, if known
  std::string owner_address;
  std::uint64_t unclean_restarts;  // of the machine: acknowledged pages may be missing
  std::uint64_t hedged_fetches;    // that left the slow server; set by the session, as the next
  std::uint64_t fetch_p99_us;      // 0: too few fetches
};

class SessionRecord {
 public:
  /// `member`: of a process that died; it was connected.
  SessionRecord(TimePoint now, MemberIndex member) : last_member_(member), disconnected_at_(now) {
    state_ = Disconnected();
  }

  SessionStatus Status(TimePoint now) const;
  SessionState state() const;
  bool ever_connected() const;
  /// The state of a session that is not connected, and neither refused nor waiting.
  SessionState Disconnected() const;

  void SetState(SessionState state);
  void NoteUuid(const ServerId& uuid);
  /// Records the owner in the answer, if any.
  void NoteOwner(const v1::OpenVolumeResponse& response);
  /// `unclean`: the server restarted, and acknowledged objects may be missing.
  void NoteOpened(MemberIndex member, std::uint64_t epoch, bool unclean);
  /// The session has no server: operators need not see it.
  void NoteForgotten();
  /// A server is expected at the address, about which nothing is known.
  void NoteListed(TimePoint now);
  void NoteDetached(TimePoint now);
  /// The connection has ended, or was never made.
  void NoteDisconnected(const std::string& why);
  /// Returns `why`.
  std::string Refuse(SessionState state, const std::string& why);
  /// Gives the volume up for good because of an owner; returns why. `named`: by this server.
  std::string GiveUp(bool named);

 private:
  mutable std::mutex mutex_;  // guards all below
  SessionState state_ = SessionState::kConnecting;
  MemberIndex last_member_;
  std::string uuid_;
  std::string owner_name_;
  std::string owner_address_;
  std::uint64_t epoch_ = 0;
  std::uint64_t connections_ = 0;
  bool forgotten_ = false;
  std::uint64_t unclean_restarts_ = 0;
  std::string last_error_;
  TimePoint disconnected_at_;
};

}  // namespace farswap::remote
