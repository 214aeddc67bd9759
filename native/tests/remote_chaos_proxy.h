// A TCP proxy on loopback that breaks the connections it carries: cuts, stalls, delays,
// half-closes.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace farswap::remote {

class ChaosProxy {
 public:
  /// Listens on a free port; connects to 127.0.0.1:`target_port` for each client.
  explicit ChaosProxy(int target_port);
  ~ChaosProxy();
  ChaosProxy(const ChaosProxy&) = delete;
  ChaosProxy& operator=(const ChaosProxy&) = delete;

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  /// Resets every connection of this moment.
  void Cut() { Ask(kCut); }
  /// Shuts down sending to both ends of every current connection, once.
  void HalfClose() { Ask(kHalfClose); }
  /// While set, no bytes are read: a partition, or a server that hangs.
  void Stall(bool stalled);
  /// While set, new connections are reset at once.
  void Refuse(bool refuse);
  /// Bytes are passed on so much later.
  void Delay(std::chrono::milliseconds delay);

 private:
  using Clock = std::chrono::steady_clock;
  enum Command : unsigned { kCut = 1, kHalfClose = 2 };

  // One direction of a connection.
  struct Pipe {
    struct Chunk {
      Clock::time_point due;
      std::vector<std::byte> bytes;
      std::size_t sent = 0;
    };
    int from;
    int to;
    std::deque<Chunk> chunks;
    bool ended = false;
  };
  struct Connection {
    Pipe pipes[2];
    bool dead = false;
  };

  void Ask(unsigned command);
  void Wake();
  void Run();
  void Apply(unsigned commands);
  void Accept();
  void Pump(Pipe* pipe, short events, bool* dead);
  bool Flush(Pipe* pipe);
  void PollOnce();

  int target_port_;
  int port_ = 0;
  int listener_ = -1;
  int wake_fds_[2] = {-1, -1};
  std::atomic<unsigned> commands_{0};
  std::atomic<unsigned> applied_{0};  // commands carried out so far, for Ask() to wait on
  std::atomic<bool> stalled_{false};
  std::atomic<bool> refuse_{false};
  std::atomic<std::int64_t> delay_ms_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::unique_ptr<Connection>> connections_;  // of the thread
  std::thread thread_;
};

}  // namespace farswap::remote
