// The rules for opening a volume, without a store, a clock or a transport.
//
// A live owner is never displaced, except by an operator (take_over), or by a process that has
// adopted the slot table of the same incarnation and has a higher takeover_count. An owner is live
// if the server has heard it within the lease.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "store/protocol.h"
#include "store/record.h"

namespace farswap::store {

struct LeaseConfig {
  std::chrono::milliseconds owner_lease{10000};  // silence after which an owner is gone
  std::chrono::milliseconds expire_after{0};     // silence after which a volume ends; 0: never
};

/// A change of a volume's owner, for the log.
struct OwnerEvent {
  enum class Kind : std::uint8_t { kDisplaced, kSucceeded, kExpired };
  Kind kind;
  std::string host_id;
  std::string device;
  Owner before;
  Owner after;  // empty for kExpired
};

enum class OpenDecision : std::uint8_t {
  kSame,         // the owner: same epoch, no change
  kPast,         // the owner's past: its machine was resumed from a snapshot
  kNewNonce,     // another process of the incarnation: higher epoch, same pages
  kNew,          // another incarnation: higher epoch, empty volume
  kAlreadyOpen,  // a live owner has the volume
  kFenced,       // the caller has a successor
  kProtocol,     // no common version of the protocol
};

/// State of the device to be opened.
struct Claim {
  bool open = false;  // whether the next three are valid
  Incarnation incarnation{};
  Owner owner;
  std::uint64_t boot_ms = 0;  // latest value from the owner
  bool live = false;
  bool retired = false;  // the caller's incarnation was closed or has a successor
};

constexpr bool SpeaksProtocol(const OpenRequest& request) {
  return request.protocol_min <= kProtocolVersion && kProtocolVersion <= request.protocol_max;
}

/// Whether the owner's request is older than its latest one, by its machine's boot clock. Requests
/// on two connections of one daemon may arrive out of order.
constexpr bool IsPast(std::uint64_t boot_ms, std::uint64_t heard_boot_ms) {
  constexpr std::uint64_t kReorderedMsMax = 10'000;
  return boot_ms + kReorderedMsMax < heard_boot_ms;
}

constexpr OpenDecision DecideOpen(const OpenRequest& request, const Claim& claim) {
  if (!SpeaksProtocol(request)) return OpenDecision::kProtocol;
  if (claim.retired) return OpenDecision::kFenced;
  if (!claim.open) return OpenDecision::kNew;
  const bool guarded = claim.live && !request.take_over;
  if (request.incarnation != claim.incarnation) {
    return guarded ? OpenDecision::kAlreadyOpen : OpenDecision::kNew;
  }
  if (request.owner.nonce == claim.owner.nonce) {
    return IsPast(request.boot_ms, claim.boot_ms) ? OpenDecision::kPast : OpenDecision::kSame;
  }
  if (request.owner.takeover_count < claim.owner.takeover_count) {
    return OpenDecision::kFenced;  // its slot table was adopted by another process
  }
  const bool adopted = request.owner.takeover_count > claim.owner.takeover_count;
  return guarded && !adopted ? OpenDecision::kAlreadyOpen : OpenDecision::kNewNonce;
}

}  // namespace farswap::store
