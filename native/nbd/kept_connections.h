// Places for connections that outlive the process. Each has an io_uring, which all processes
// inherit, and memory, which is made when it is first used.
//
//   Reserve()   the place's memory is there; a successor takes no connection from it
//   Begin()     a successor goes on with the connection, if it has the socket too
//   the end     of the connection: the peer sees it although another process holds the socket
//
// Threads: any.
#pragma once

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/memory.h"
#include "base/result.h"
#include "nbd/connection_set.h"
#include "nbd/ring_socket.h"

namespace farswap::nbd {

class KeptConnections {
 public:
  /// Of the supervisor. The descriptor is open as long as the process.
  struct Ring {
    int descriptor = -1;
    io_uring_params parameters{};
  };
  /// Borrows the set, which serves the connections, and is stopped first.
  KeptConnections(ConnectionSet* connections, std::span<const Ring> rings);

  /// A free place and its memory; nullopt if there is none, or memory is short.
  struct Place {
    std::size_t index;
    Memory::Handle memory;
  };
  std::optional<Place> Reserve();
  /// As ConnectionSet::Serve(), in a place that was reserved.
  Result<std::uint64_t> Begin(std::size_t index, int socket, std::span<const std::byte> initial,
                              const std::string& peer);
  /// Goes on with a connection of a process that died. Takes over both descriptors, also on
  /// failure: the connection has not begun, has ended, or is of another version.
  Result<std::uint64_t> Adopt(std::size_t index, const Memory::Handle& handle, int socket);
  /// Places whose connection has ended since the last call, and that have no other one.
  std::vector<std::size_t> TakeEnded();

 private:
  struct Slot {
    Ring ring;
    std::unique_ptr<Memory> memory;
    bool in_use = false;
  };

  Result<std::unique_ptr<RingSocket>> MakeSocket(std::size_t index, ConnectionState* state,
                                                 int socket);
  void Release(std::size_t index);

  ConnectionSet& connections_;
  std::mutex mutex_;  // guards the members below
  std::vector<Slot> slots_;
  std::vector<std::size_t> ended_;
};

}  // namespace farswap::nbd
