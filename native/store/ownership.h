// Who may open a volume: the rules alone, without a store, a clock or a transport.
//
// A live owner is never displaced, except by an operator's word (take_over), or by a process that
// has adopted the slot table of the same incarnation and so carries a higher takeover_count. An
// owner is live as long as the server has heard it within the lease.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "store/protocol.h"
#include "store/record.h"

namespace farswap::store {

struct LeaseConfig {
  std::chrono::milliseconds owner_lease{10000};  // an owner that is silent for longer is gone
  std::chrono::milliseconds expire_after{0};     // a volume's host may be silent for; 0: for ever
};

/// What befell the owner of a volume, for the log.
struct OwnerEvent {
  enum class Kind : std::uint8_t { kDisplaced, kSucceeded, kExpired };
  Kind kind;
  std::string host_id;
  std::string device;
  Owner before;
  Owner after;  // none of kExpired
};

enum class OpenDecision : std::uint8_t {
  kSame,         // the owner again: the same epoch, nothing changes
  kPast,         // the owner, of an earlier moment: its machine was resumed from a snapshot
  kNewNonce,     // another process of the incarnation: a higher epoch, the same pages
  kNew,          // another incarnation: a higher epoch, an empty volume
  kAlreadyOpen,  // a live owner has the volume
  kFenced,       // the caller has had its turn
  kProtocol,     // no version of the protocol in common
};

/// What a server knows of the device that is to be opened.
struct Claim {
  bool open = false;  // the three below are those of its open volume
  Incarnation incarnation{};
  Owner owner;
  std::uint64_t boot_ms = 0;  // the latest that the owner has sent
  bool live = false;
  bool retired = false;  // the caller's incarnation was closed or has a successor
};

constexpr bool SpeaksProtocol(const OpenRequest& request) {
  return request.protocol_min <= kProtocolVersion && kProtocolVersion <= request.protocol_max;
}

/// Whether a request of the owner's was sent before the latest that was heard, by its machine's
/// boot clock. Two connections of one daemon may be heard in another order than they sent.
constexpr bool IsPast(std::uint64_t boot_ms, std::uint64_t heard_boot_ms) {
  constexpr std::uint64_t kReorderedMsMax = 10'000;
  return boot_ms + kReorderedMsMax < heard_boot_ms;
}

constexpr OpenDecision DecideOpen(const OpenRequest& request, const Claim& claim) {
  if (!SpeaksProtocol(request)) {
    return OpenDecision::kProtocol;
  }
  if (claim.retired) {
    return OpenDecision::kFenced;
  }
  if (!claim.open) {
    return OpenDecision::kNew;
  }
  const bool guarded = claim.live && !request.take_over;
  if (request.incarnation != claim.incarnation) {
    return guarded ? OpenDecision::kAlreadyOpen : OpenDecision::kNew;
  }
  if (request.owner.nonce == claim.owner.nonce) {
    return IsPast(request.boot_ms, claim.boot_ms) ? OpenDecision::kPast : OpenDecision::kSame;
  }
  if (request.owner.takeover_count < claim.owner.takeover_count) {
    return OpenDecision::kFenced;  // its slot table was adopted: only the adopter may use it
  }
  const bool adopted = request.owner.takeover_count > claim.owner.takeover_count;
  return guarded && !adopted ? OpenDecision::kAlreadyOpen : OpenDecision::kNewNonce;
}

}  // namespace farswap::store
