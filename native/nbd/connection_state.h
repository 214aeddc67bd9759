// What of a connection outlives the process that serves it: all that a successor with the same
// socket needs to answer every request exactly once. It has no pointers. connection.h has the steps
// that change it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bits.h"
#include "base/robust_mutex.h"
#include "nbd/parser.h"
#include "nbd/stream_socket.h"
#include "nbd/wire.h"
#include "tier/page_device.h"

namespace farswap::nbd {

/// A READ with remote pages.
struct ParkedRead {
  std::uint64_t cookie;
  tier::SlotIndex first;
  std::uint32_t page_count;
};

/// A WRITE some of whose pages wait for room.
struct ParkedWrite {
  std::uint64_t cookie;
  tier::IoStatus status;  // the worst outcome so far
};

/// A page that waits for room.
struct ParkedStore {
  tier::SlotIndex slot;
  std::uint32_t write;  // its index
};

struct ConnectionState {
  static constexpr std::size_t kParkedReads = 128;
  static constexpr std::size_t kParkedWrites = 128;
  static constexpr std::size_t kParkedStores = 512;
  static constexpr std::uint32_t kNoWrite = kParkedWrites;
  /// Of a generation whose processes die. Then its requests are executed one at a time, and the one
  /// during which another process dies is answered EIO.
  static constexpr std::uint32_t kExecutionsMax = 2;
  /// Size of the receive buffer. Larger than socket buffers, so that one call empties a full one.
  static constexpr std::size_t kReceiveBytes = std::size_t{1} << 20;
  /// Size of the reply buffer: the largest READ fits.
  static constexpr std::size_t kReplyBytes = kPayloadBytesMax + tier::kPageBytes;

  /// Where the connection is when a generation begins, and the replies of that generation.
  struct Record {
    StreamPosition stream;    // of `end` and of the first byte of the replies
    std::uint32_t begin = 0;  // [begin, end) of the receive buffer is not yet handled
    std::uint32_t end = 0;
    std::uint32_t moved_from = 0;  // where these bytes are until the generation begins
    std::uint32_t executions = 0;  // how often they were begun to be handled
    RequestParser::Position parser;
    bool ended = false;  // by DISC or a bad magic: nothing more is received
    // Of the WRITE whose payload arrives: the outcome of its pages that are not parked, and its
    // index once a page is parked.
    tier::IoStatus write_status = tier::IoStatus::kOk;
    std::uint32_t write = kNoWrite;
    // In use. An entry that this generation frees is used again in the next one.
    Bits<kParkedReads> reads;
    Bits<kParkedWrites> writes;
    Bits<kParkedStores> stores;
    std::uint32_t reply_bytes = 0;
    std::atomic<bool> ready = false;  // the replies and the next record are final
  };

  /// Changes with the layout.
  static constexpr std::uint64_t Layout();

  /// In memory that is aligned to a page: a connection that has received `initial` so far.
  static ConnectionState* Begin(std::span<std::byte> memory, std::span<const std::byte> initial);
  /// As another process left it.
  static ConnectionState* At(std::span<std::byte> memory);

  Record& record() { return records[generation.load(std::memory_order_relaxed) % 2]; }
  Record& next() { return records[(generation.load(std::memory_order_relaxed) + 1) % 2]; }

  // Of a kept connection (kept_connections.h).
  std::atomic<bool> serving;  // it has begun, and has not ended
  std::uint64_t layout;
  std::array<char, 64> peer;  // its name for the operator, with a final zero

  RobustMutex mutex;  // held by the thread that runs a generation; guards all of this
  std::atomic<std::uint64_t> generation;
  StreamPosition stream;  // kept by the socket
  std::array<Record, 2> records;
  std::array<ParkedRead, kParkedReads> reads;
  std::array<ParkedWrite, kParkedWrites> writes;
  std::array<ParkedStore, kParkedStores> stores;
  alignas(tier::kPageBytes) std::array<std::byte, kReceiveBytes> received;
  std::array<std::byte, kReplyBytes> reply;
  std::array<std::array<std::byte, tier::kPageBytes>, kParkedStores> store_pages;
};

constexpr std::uint64_t ConnectionState::Layout() {
  std::uint64_t hash = 1;
  for (const std::uint64_t part :
       {sizeof(ConnectionState), sizeof(Record), sizeof(RobustMutex), offsetof(Record, parser),
        offsetof(Record, reads), offsetof(Record, ready), sizeof(ParkedRead), sizeof(ParkedWrite),
        sizeof(ParkedStore), kReceiveBytes, kReplyBytes}) {
    hash = (hash ^ part) * 0x100000001b3;
  }
  return hash;
}

}  // namespace farswap::nbd
