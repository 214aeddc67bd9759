// What the lanes of a session (put, get, discard, heartbeat) have in common. A lane keeps what
// waits for one memory server across its connections. Its session opens it when a connection is up,
// services it, detaches it when the connection is lost, and closes it for good: these four come
// from the session's own thread alone, so that what Service() holds in its hands cannot vanish.
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
  std::chrono::milliseconds owner_lease{10000};  // an owner that is silent for longer is gone
};

/// How often an owner says that it lives, and how often others ask whether it does.
inline std::chrono::milliseconds HeartbeatOf(std::chrono::milliseconds owner_lease) {
  return owner_lease / 5;
}

/// Why a server would not serve a call that it understood.
enum class VolumeLoss : std::uint8_t {
  kFenced,         // the volume has a newer epoch: another engine took it
  kUnknownVolume,  // to be opened again
};

/// The session, as its lanes see it. Called from any thread. The observer's own lock is a leaf: it
/// may be taken under a lane's, and the observer calls no lane while it holds it.
class LaneObserver {
 public:
  /// Service() has something to do.
  virtual void OnLaneWork() = 0;
  /// The connection is of no use any more.
  virtual void OnLaneBroken() = 0;
  virtual void OnVolumeLost(VolumeLoss loss) = 0;

 protected:
  ~LaneObserver() = default;
};

}  // namespace farswap::remote
