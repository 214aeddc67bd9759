// Common types of a session's lanes (put, get, discard, heartbeat). A lane keeps pending requests
// of one memory server across connections. Its session opens it when a connection is up, services
// it, detaches it when the connection is lost, and closes it at the end. Only the session's thread
// calls these four, so objects in use by Service() cannot vanish.
#pragma once

#include <chrono>
#include <cstdint>

namespace farswap::remote {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
inline constexpr TimePoint kNever = TimePoint::max();

/// What OpenVolume returned; every later call carries it.
struct OpenedVolume {
  std::uint64_t id = 0;
  std::uint64_t epoch = 0;
  std::chrono::milliseconds owner_lease{10000};  // silence after which an owner is gone
};

/// Interval of an owner's heartbeats, and of other hosts' probes.
inline std::chrono::milliseconds HeartbeatOf(std::chrono::milliseconds owner_lease) {
  return owner_lease / 5;
}

/// Why a server refused a valid call.
enum class VolumeLoss : std::uint8_t {
  kFenced,         // the volume has a newer epoch: another engine has it
  kUnknownVolume,  // must be opened again
};

/// The session, for its lanes. Called from any thread. The observer's lock is a leaf: it may be
/// taken under a lane's, and the observer calls no lane while it holds it.
class LaneObserver {
 public:
  /// Service() has something to do.
  virtual void OnLaneWork() = 0;
  /// The connection is broken.
  virtual void OnLaneBroken() = 0;
  /// Puts do without the server: it has been away, or has answered no Put, for outage_wait, or it
  /// refuses connections while other replicas have what it is to get. On the session's thread.
  virtual void OnAway() = 0;
  /// The server, which stayed connected, has answered its Puts. On the session's thread.
  virtual void OnBack() = 0;
  virtual void OnVolumeLost(VolumeLoss loss) = 0;

 protected:
  ~LaneObserver() = default;
};

}  // namespace farswap::remote
