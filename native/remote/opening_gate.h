// Decides whether this host may open its volume, without displacing a live owner. All sessions
// first send a probe. The volume is opened everywhere once no answer names an owner, or nowhere
// once one has named an owner for three leases. A silent server does not delay the decision: it
// decides for itself when it answers.
//
// No I/O, no clock. Thread-safe; its lock is a leaf.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "remote/lane.h"

namespace farswap::remote {

/// Time that a host waits for an owner to go, in leases.
inline constexpr int kLeasesToWait = 3;

class OpeningGate {
 public:
  enum class Decision : std::uint8_t { kNone, kOpen, kRefused };

  /// Waits for other servers' answers until `answer_wait` after the first one. `open`: open without
  /// probes, as an operator requested.
  OpeningGate(std::chrono::milliseconds answer_wait, bool open);

  /// Sessions are numbered from 0.
  void AddSession();
  Decision decision() const;
  /// Adds an answer; `lease` is the server's. Returns the decision.
  Decision NoteAnswer(std::size_t session, bool owned, std::chrono::milliseconds lease,
                      TimePoint now);
  /// The connection to a server is lost: its last answer does not count.
  void NoteSilent(std::size_t session);
  /// Time from which NoteAnswer() may decide without further answers.
  TimePoint answers_until() const;

 private:
  enum class Last : std::uint8_t { kNothing, kFree, kOwned };

  void Decide(std::chrono::milliseconds lease, TimePoint now);

  const std::chrono::milliseconds answer_wait_;
  mutable std::mutex mutex_;  // guards the members below
  Decision decision_;
  std::vector<Last> last_;
  TimePoint answers_until_ = kNever;
  TimePoint owned_since_ = kNever;
};

}  // namespace farswap::remote
