// One client in its transmission phase, served by one thread.
//
// The thread receives as much as there is into one large buffer, handles every complete request in
// it, and sends all replies at once: pages are compressed straight from the receive buffer and
// decompressed straight into the reply buffer. With nothing parked that makes one recv() and one
// send() a batch and nothing else; with requests parked (see reply_stream.h) it polls before it
// receives. No request allocates memory.
//
// A WRITE is stored page by page as its payload arrives. A page that finds no room is parked and
// delays no later request; the WRITE is answered when it is stored. After a store failed, the rest
// of the payload is received and dropped, then the error is replied. Two things wait: a read that
// may not be parked, and whatever finds the memory for parked pages full. The replies before it are
// sent first.
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

#include "base/locked_mapping.h"
#include "base/result.h"
#include "nbd/parser.h"
#include "nbd/reply_stream.h"
#include "tier/page_device.h"

namespace farswap::nbd {

class Connection {
 public:
  /// Received at once, at most. Larger than any socket buffer in use, so that a full one is emptied
  /// by one system call.
  static constexpr std::size_t kReceiveBytes = std::size_t{1} << 20;
  /// Replies sent at once, at most: the largest READ fits.
  static constexpr std::size_t kReplyBytes = kPayloadBytesMax + tier::kPageBytes;

  /// Owns the socket, which is a stream whose handshake is done, also when it fails. `initial` is
  /// what the client has sent behind its handshake.
  static Result<std::unique_ptr<Connection>> Create(tier::PageDevice* tier,
                                                    std::uint64_t export_bytes, int socket,
                                                    std::span<const std::byte> initial);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Serves the client until it leaves, is shut down or sends a bad magic. Call once.
  void Run();
  /// Makes Run() return soon. From any thread.
  void Shutdown();

  std::uint64_t requests() const { return requests_.load(std::memory_order_relaxed); }
  /// Requests that were answered with an error.
  std::uint64_t errors() const { return errors_.load(std::memory_order_relaxed); }
  /// Why the latest illegal request was refused; "" if none was.
  const char* last_refusal() const { return last_refusal_.load(std::memory_order_relaxed); }

 private:
  Connection(tier::PageDevice* tier, std::uint64_t export_bytes, int socket)
      : tier_(tier), socket_(socket), parser_(export_bytes) {}

  // All false: the connection ends.
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
  std::unique_ptr<LockedMapping> memory_;  // the receive buffer, then the reply buffer
  std::unique_ptr<ReplyStream> replies_;

  std::byte* received_ = nullptr;  // [received_begin_, received_end_) is not handled yet
  std::size_t received_begin_ = 0;
  std::size_t received_end_ = 0;
  std::byte* reply_ = nullptr;  // [0, reply_end_) is to be sent
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
