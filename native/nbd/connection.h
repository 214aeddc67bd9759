// One client in its transmission phase, served by one thread.
//
// The thread receives all available bytes into one large buffer, handles every complete request in
// it, and sends all replies at once. Pages are compressed from the receive buffer and decompressed
// into the reply buffer. Without parked requests a batch is one recv() and one send(); with them
// (reply_stream.h) the thread polls before it receives. No request allocates memory.
//
// A WRITE is stored page by page as its payload arrives. A page that finds no room is parked and
// delays no later request; the WRITE is answered when it is stored. After a store failed, the rest
// of the payload is received and dropped, then the error is replied. The thread waits only for a
// read that is too large to be parked, and for memory of parked pages; it sends earlier replies
// first.
//
// Requests are answered in any order, as the protocol allows. A connection that ends (DISC, end of
// stream, bad magic) first answers what it has accepted, except writes that wait for room: their
// stores are cancelled, and they are not answered. After Run() no page of the connection is stored,
// so none replaces a newer one of another connection.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/memory.h"
#include "base/result.h"
#include "nbd/parser.h"
#include "nbd/reply_stream.h"
#include "tier/page_device.h"

namespace farswap::nbd {

class Connection {
 public:
  /// Size of the receive buffer. Larger than socket buffers, so that one call empties a full one.
  static constexpr std::size_t kReceiveBytes = std::size_t{1} << 20;
  /// Size of the reply buffer: the largest READ fits.
  static constexpr std::size_t kReplyBytes = kPayloadBytesMax + tier::kPageBytes;

  /// Takes over the socket, a stream after its handshake, also on failure. `initial`: bytes that
  /// the client sent after the handshake.
  static Result<std::unique_ptr<Connection>> Create(tier::PageDevice* tier,
                                                    std::uint64_t export_bytes, int socket,
                                                    std::span<const std::byte> initial);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Serves the client until it leaves, is shut down or sends a bad magic. Call once.
  void Run();
  /// Makes Run() return soon. Any thread.
  void Shutdown();

  std::uint64_t requests() const { return requests_.load(std::memory_order_relaxed); }
  /// Number of requests answered with an error.
  std::uint64_t errors() const { return errors_.load(std::memory_order_relaxed); }
  /// Reason of the latest refusal of an illegal request; "" if none.
  const char* last_refusal() const { return last_refusal_.load(std::memory_order_relaxed); }

 private:
  Connection(tier::PageDevice* tier, std::uint64_t export_bytes, int socket)
      : tier_(tier), socket_(socket), parser_(export_bytes) {}

  // All return false if the connection must end.
  bool HandleReceived();
  bool HandleRequest(const Request& request);
  bool Receive();
  bool WaitReadable();
  bool FlushReplies();
  bool Reply(WireError error, std::uint64_t cookie);

  bool Read(const Request& request);
  bool ReadParked(const Request& request, std::size_t first_remote, const std::byte* produced);
  bool ReadLarge(const Request& request, std::size_t first_remote, std::byte* data);
  bool FetchLarge(const Request& request, std::size_t first_remote, std::byte* data);
  bool WritePayload(const ParserEvent& event);
  tier::IoStatus StorePage(tier::SlotIndex slot, const std::byte* page);
  tier::IoStatus StoreRange(std::uint64_t offset, std::span<const std::byte> bytes);
  void Forget(std::uint64_t offset, std::uint64_t length);

  tier::PageDevice* const tier_;
  const int socket_;
  RequestParser parser_;
  std::unique_ptr<Memory> memory_;  // the receive buffer, then the reply buffer
  std::unique_ptr<ReplyStream> replies_;

  std::byte* received_ = nullptr;  // [received_begin_, received_end_) is not yet handled
  std::size_t received_begin_ = 0;
  std::size_t received_end_ = 0;
  std::byte* reply_ = nullptr;  // [0, reply_end_) is not yet sent
  std::size_t reply_end_ = 0;
  // Of the WRITE whose payload arrives: the outcome of its pages that are not parked, whether any
  // page is parked, and the memory to park it and another page, if there is any.
  tier::IoStatus write_status_ = tier::IoStatus::kOk;
  bool write_parked_ = false;
  ParkedRequest* write_ = nullptr;
  ParkedStore* store_ = nullptr;

  std::atomic<std::uint64_t> requests_{0};
  std::atomic<std::uint64_t> errors_{0};
  std::atomic<const char*> last_refusal_{""};
};

}  // namespace farswap::nbd
