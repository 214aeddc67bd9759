// Points between two changes of memory that outlives the process, for the test that kills it at
// each of them. Nothing in other builds.
#pragma once

#include <cstdint>

namespace farswap {

enum class Step : std::uint8_t {
  kFilled,          // an entry has its bytes
  kNamed,           // and its slot
  kReplaced,        // a record names the slot's next page, or none
  kFreed,           // the entry of the page before is free
  kTaken,           // a page is being written
  kJoined,          // and in a bundle
  kSettled,         // it is remote
  kSettledFree,     // and its entry free
  kStayed,          // it is local again
  kRaced,           // its slot has changed since: a stale object is to be discarded
  kAdopted,         // a neighbour is clean
  kDropped,         // a clean page is remote
  kCopied,          // compaction has copied an entry
  kMoved,           // and its record
  kListed,          // a stale object is about to be discarded
  kReparented,      // a record has the index of its group's parent
  kRemoved,         // a group's index stands for its parent
  kSlabTaken,       // from the free ones, not yet of a class
  kRecovered,       // a record, by a successor
  kRecoveredTable,  // all records, not the pool
  kMemberNamed,     // a memory server's record is complete
  kShardChanged,    // a shard's set of replicas is another
  kReceived,        // bytes are behind the rest
  kExecuted,        // replies and the next record are complete
  kReady,           // and final
  kSent,            // some of the replies
  kMovedRest,       // all are sent, and the rest is at the front
  kNextGeneration,  // has begun
  kSubmitted,       // a request is in the ring
  kEntered,         // bytes have gone, and the position is not written
  kCount,
};

/// Later ones are of the placement, then of connections.
inline constexpr Step kLastTierStep = Step::kRecoveredTable;
inline constexpr Step kFirstConnectionStep = Step::kReceived;

#ifdef FARSWAP_STEPS
void Reach(Step step);
#else
inline void Reach(Step) {}
#endif

}  // namespace farswap
