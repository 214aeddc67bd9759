// Everything between this host and one memory server: connects, opens the volume, keeps the three
// lanes going, and connects again when the connection is lost, until it is stopped or fenced.
//
// Threads: one of its own ("fs-remote-N") for connecting, for the store and discard lanes, and for
// deadlines; fetches are sent by their callers and answered on the completion thread. Store and
// Fetch have a channel, so a TCP connection, each.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "remote/put_part.h"
#include "tier/remote_store.h"

namespace farswap::rpc {
class CompletionThreads;
}

namespace farswap::remote {

struct SessionConfig {
  std::string address;
  std::size_t number = 0;  // names the thread, seeds the jitter
  std::string host_id;
  std::string device;
  std::array<std::byte, 16> incarnation{};
  std::array<std::byte, 16> nonce{};  // of this run of the daemon: the same for all its servers
  std::string host_name;              // for people
  std::uint64_t slots = 0;
  std::chrono::milliseconds fetch_wait{};
  std::chrono::milliseconds put_wait{};
  std::chrono::milliseconds open_wait{};
  std::chrono::milliseconds outage_wait{};
  std::chrono::milliseconds full_wait{};
};

class Session {
 public:
  /// Starts. `completions` outlives the session.
  Session(const SessionConfig& config, rpc::CompletionThreads* completions);
  ~Session();  // Stop()

  /// Takes the part; false, if the server is fenced off, stopped or long away: it is kUnavailable.
  bool Put(PutPart* part);
  /// Takes the fetch; false, if the server is fenced off or stopped: it is kUnavailable.
  bool Get(tier::RemoteFetch* fetch);
  /// See tier::RemoteStore.
  bool TakesDiscards() const;
  void Discard(std::span<const tier::DiscardItem> items);

  bool connected() const;
  /// Connected, and has not just said that it is full.
  bool writable() const;
  bool full() const;
  std::uint64_t free_bytes() const;

  struct Status {
    bool connected;
    std::uint64_t capacity_bytes;
    std::uint64_t used_bytes;
    std::uint64_t epoch;
    std::uint64_t reconnects;
    std::string last_error;
    std::uint64_t disconnected_ms;  // 0 when connected
  };
  Status status() const;
  const std::string& address() const;

  /// Answers what is under way with kUnavailable and joins the thread. Idempotent.
  void Stop();

 private:
  class Worker;
  std::unique_ptr<Worker> worker_;
};

}  // namespace farswap::remote
