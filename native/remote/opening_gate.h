// Whether this host may open its volume: no live owner is displaced. All sessions first send a
// probe; the volume is opened everywhere once none that answered names an owner, or nowhere once
// one has named an owner for three times the owner's lease. A server that is silent is not waited
// for: it is asked, and alone refuses, when it answers.
//
// No I/O, no clock of its own. Thread-safe; its lock is a leaf.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "remote/lane.h"

namespace farswap::remote {

/// How long a host waits, in leases, for an owner to go.
inline constexpr int kLeasesToWait = 3;

class OpeningGate {
 public:
  enum class Decision : std::uint8_t { kNone, kOpen, kRefused };

  /// Waits for the other servers' answers until `answer_wait` after the first one. `open`: by an
  /// operator's word, without asking.
  OpeningGate(std::size_t sessions, std::chrono::milliseconds answer_wait, bool open);

  Decision decision() const;
  /// A server answered; `lease` is what it gives owners. Returns the decision.
  Decision NoteAnswer(std::size_t session, bool owned, std::chrono::milliseconds lease,
                      TimePoint now);
  /// The connection to a server is lost: what it last said counts no more.
  void NoteSilent(std::size_t session);
  /// When NoteAnswer() may decide otherwise although no other server has answered.
  TimePoint answers_until() const;

 private:
  enum class Last : std::uint8_t { kNothing, kFree, kOwned };

  void Decide(std::chrono::milliseconds lease, TimePoint now);

  const std::chrono::milliseconds answer_wait_;
  mutable std::mutex mutex_;  // guards what follows
  Decision decision_;
  std::vector<Last> last_;
  TimePoint answers_until_ = kNever;
  TimePoint owned_since_ = kNever;
};

}  // namespace farswap::remote
