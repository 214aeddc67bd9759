// Identity of memory servers. A server is its store's uuid, not its address. Members are numbered
// from 0 in the order in which their uuids were first seen, and keep their number; the shard map
// uses it.
//
// Each session has at most one member, and connects to one address. Meaning of an answer at an
// address:
//
//   its uuid            and                                        the session
//   is new              has no member                              keeps the member
//   is new              has another member                         that store is gone; the new one
//                                                                  takes its place
//   is another          that one answers, the run id is the same   is refused: one server by two
//   session's                                                      names
//                       that one answers, the run id differs       is refused: a cloned store
//                       that one is silent                         exchanges addresses with it
//   is removed                                                       is refused
//
// A session without a member is idle once its address is no longer listed: nobody expects a server
// there. It takes the next listed address that has no session.
//
// An operator removes a store that never comes back. One that answers is retired instead: it stays
// until its shards have moved away.
//
// A successor of a process that died reads from the records of the state which members there are,
// and where the servers of those with shards were last.
//
// No I/O, no clock.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "placement/replica_set.h"
#include "remote/lane.h"
#include "tier/member_record.h"

namespace farswap::remote {

using placement::MemberIndex;
inline constexpr MemberIndex kNoMember = 0xffff;

/// 16 random bytes of a store, or of a run of its server.
using ServerId = std::array<std::byte, 16>;

/// Of a server, by name.
using Labels = std::map<std::string, std::string>;

std::string Hex(const ServerId& id);

class Members {
 public:
  static constexpr std::size_t kMembersMax = placement::kMembersMax;
  static_assert(kMembersMax == tier::kMembersMax);

  /// A silent server counts as moved `move_wait` after its last answer. What a successor needs is
  /// kept in `records`; none: it is not kept.
  Members(std::chrono::milliseconds move_wait, std::string spread,
          std::span<tier::MemberRecord> records = {});

  /// Takes over the records of a process that died, of which shards have replicas on the members
  /// `named`; called first. These have sessions from now on. Returns those whose store is gone.
  /// Fails if one was never recorded.
  Result<std::vector<MemberIndex>> Recover(const std::set<MemberIndex>& named, TimePoint now);

  /// Any thread, as all that follow. Servers are listed at these addresses, and no others, from now
  /// on. Returns the sessions, of at most `sessions_max`, that are new or have become listed,
  /// perhaps with another address. An address above 263 bytes has none.
  std::vector<std::size_t> List(std::span<const std::string> addresses, std::size_t sessions_max);
  /// The session's address is not listed, and it has no member.
  bool IsIdle(std::size_t session) const;

  enum class Standing : std::uint8_t {
    kAccepted,   // the session has `member`
    kDuplicate,  // `other` has it: the same server by another name
    kClone,      // `other` has it: a copy of its store
    kSilent,     // `other` has it, and has been silent for less than move_wait
    kMoved,      // `other` now has this address, and this session has that of `other`
    kStale,      // the session has another address since
    kRemoved,    // an operator removed the store
    kTooMany,    // no number left
  };
  struct Answer {
    Standing standing = Standing::kAccepted;
    MemberIndex member = kNoMember;
    MemberIndex gone = kNoMember;  // the session's former member, if it is just gone
    std::size_t other = 0;         // a session
    std::string other_address{};
  };

  /// The session got an answer at this address.
  Answer Claim(std::size_t session, const std::string& address, const ServerId& uuid,
               const ServerId& run, TimePoint now);
  /// The session has lost its connection.
  void NoteSilent(std::size_t session, TimePoint now);

  /// An operator says that the store never comes back; `in_use`: shards have replicas there. The
  /// session that has lost its member by this, if any.
  std::optional<std::size_t> Remove(const ServerId& uuid, bool in_use);
  /// An operator removed the member while it answered.
  bool IsRetired(MemberIndex member) const;
  /// kNoMember: never seen.
  MemberIndex MemberOf(const ServerId& uuid) const;

  std::string AddressOf(std::size_t session) const;
  /// The session's member; kNoMember: none.
  MemberIndex BoundTo(std::size_t session) const;
  ServerId UuidOf(MemberIndex member) const;

  // A member's failure domain is the value of the label that replicas are spread by. Without that
  // label it is a domain of its own, with the name of its uuid.
  void SpreadBy(const std::string& label);
  std::string spread() const;
  void NoteLabels(MemberIndex member, Labels labels);
  Labels LabelsOf(MemberIndex member) const;
  std::string DomainOf(MemberIndex member) const;
  /// The same for two members in one domain.
  std::uint32_t DomainNumberOf(MemberIndex member) const;

  /// Lock-free. nullopt: the member's store is gone.
  std::optional<std::size_t> SessionOf(MemberIndex member) const {
    const std::uint16_t session = session_of_[member].load(std::memory_order_acquire);
    return session == kNoSession ? std::nullopt : std::optional<std::size_t>(session);
  }

 private:
  static constexpr std::uint16_t kNoSession = 0xffff;

  struct Member {
    ServerId uuid{};
    ServerId run{};
    Labels labels{};
    std::size_t domain = 0;  // in domains_
    bool retired = false;
    // Runs of copies of its store that were seen while it answered.
    std::vector<ServerId> clones{};
  };
  struct Session {
    bool idle() const { return !listed && member == kNoMember; }

    std::string address;
    bool listed = true;
    MemberIndex member = kNoMember;
    bool answering = false;
    TimePoint silent_since{};
    bool recovered = false;  // and not yet returned by List()
  };

  MemberIndex Find(const ServerId& uuid) const;
  void AddMember(const ServerId& uuid);
  void NoteAddress(MemberIndex member, const std::string& address);
  void NoteStanding(MemberIndex member, tier::MemberRecord::Standing standing);
  void UpdateDomain(Member* member);
  Answer Bind(std::size_t session, MemberIndex member, const ServerId& run);
  Answer Contest(std::size_t session, MemberIndex member, const ServerId& run, TimePoint now);

  const std::chrono::milliseconds move_wait_;
  const std::span<tier::MemberRecord> records_;
  std::array<std::atomic<std::uint16_t>, kMembersMax> session_of_;

  mutable std::mutex mutex_;  // guards the members below
  std::vector<Member> members_;
  std::vector<Session> sessions_;
  std::string spread_;                // name of a label
  std::vector<std::string> domains_;  // by number
  std::set<ServerId> removed_;
};

/// Why the session does not use the server that answered at the address; empty: it does.
std::string WhyNotUsed(const Members::Answer& answer, const std::string& address,
                       const ServerId& uuid);

}  // namespace farswap::remote
