// All connections of one export: they share the tier, and with it each page. A thread of its own,
// named fs-nbd-<id>, serves each connection and ends with it.
//
// Stop() takes as long as the slowest fetch that a connection has parked. To stop at once, call
// CloseAll(), then stop the RemoteStore (which fails the fetches), then call Stop().
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "nbd/connection.h"
#include "tier/page_device.h"

namespace farswap::nbd {

class ConnectionSet {
 public:
  /// Borrows the tier, which must have a slot for every page of the export.
  ConnectionSet(tier::PageDevice* tier, std::uint64_t export_bytes);
  ~ConnectionSet();
  ConnectionSet(const ConnectionSet&) = delete;
  ConnectionSet& operator=(const ConnectionSet&) = delete;

  /// Serves a stream socket after its handshake; `initial` has the bytes that the client has sent
  /// behind it, `peer` its name for the operator. Owns the socket also on failure. Returns the
  /// connection's id; ids count from 1 and are never used again.
  Result<std::uint64_t> Serve(int socket, std::span<const std::byte> initial, std::string peer);

  /// The same for a connection whose state outlives the process, new or to go on with.
  Result<std::uint64_t> Serve(ConnectionState* state, std::unique_ptr<StreamSocket> socket,
                              std::string peer);

  struct Info {
    std::uint64_t id;
    std::string peer;
    std::uint64_t requests;
    std::uint64_t errors;      // requests answered with an error
    std::string last_refusal;  // reason of the latest refusal of an illegal request, or ""
  };
  /// Connections being served.
  std::vector<Info> List();

  /// Ends a connection; false if the id is unknown.
  bool Close(std::uint64_t id);
  /// Ends all connections and refuses new ones, without waiting.
  void CloseAll();
  /// Waits until the connection has ended and its socket is closed; false on timeout.
  bool Wait(std::uint64_t id, std::chrono::milliseconds timeout);
  /// CloseAll(), then waits for all. Idempotent.
  void Stop();

 private:
  struct Served {
    std::string peer;
    std::unique_ptr<Connection> connection;  // nullptr: has ended, closing its socket
    std::thread thread;
  };

  Result<std::uint64_t> Start(Result<std::unique_ptr<Connection>> created, std::string peer);
  void ServeUntilEnd(std::uint64_t id, Connection* connection);
  void JoinEnded(std::unique_lock<std::mutex>& lock);

  tier::PageDevice* const tier_;
  const std::uint64_t export_bytes_;

  std::mutex
      mutex_;  // guards the members below; held while a thread starts, never while one is joined
  std::condition_variable ended_;
  bool stopping_ = false;
  std::uint64_t next_id_ = 1;
  std::map<std::uint64_t, Served> served_;
  std::vector<std::thread> ended_threads_;  // the next Serve() or Stop() joins them
};

}  // namespace farswap::nbd
