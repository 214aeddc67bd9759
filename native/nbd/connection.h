// One client in its transmission phase, served generation by generation. What a generation changes
// outlives the process, so that another one with the same socket goes on at any instruction, and
// each request is answered once.
//
//   step                               in the state         a successor
//   1 receive behind the rest          the received bytes   takes what the kernel has counted
//   2 execute the complete requests,   pages, replies,      executes them again: nothing was
//     answer parked ones               the next record      answered yet
//   3 ready = true                     replies are final
//   4 send the replies                 nothing              sends what the kernel has not
//   5 move the rest to the front       the same bytes       moves it again
//   6 generation + 1                   next record counts
//
// Stores, loads and trims may be done twice. No step but 1 and 4 needs the kernel's word, and no
// request is written down. Bytes go through large buffers: pages are compressed from what was
// received and decompressed into the replies. No request allocates memory.
//
// A generation ends when all is handled, when the replies are full, or when a request needs memory
// of parked ones: what is left belongs to the next.
//
// A generation during which several processes die is executed one request at a time, and the
// request that ends the next process is answered EIO (ConnectionState::kExecutionsMax).
//
// The holder of the state's mutex runs a generation. The connection's thread holds it, except while
// it waits for the client with requests parked. Then a thread that completes a parked request runs
// a generation that receives nothing, and sends what the socket takes; an eventfd wakes the
// connection's thread to send the rest (parked_requests.h).
//
// A READ of remote pages is parked, and so is a WRITE page that finds no room; neither delays a
// later request. A WRITE is stored page by page as its payload arrives, and answered when each page
// is stored, superseded by a newer one, or refused. The tier empties the slot of a refused page;
// the connection those of the pages behind it. So when the reply is an error, each slot of the
// WRITE holds its new page, nothing, or what came later; never what it held before.
//
// Requests are answered in any order, as the protocol allows. A connection that ends (DISC, end of
// stream, bad magic) first answers what it has accepted, except writes that wait for room: their
// stores are cancelled, and they are not answered. After Run() no page of the connection is stored,
// so none replaces a newer one of another connection.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/file_descriptor.h"
#include "base/memory.h"
#include "base/result.h"
#include "nbd/connection_state.h"
#include "nbd/parked_requests.h"
#include "nbd/parser.h"
#include "nbd/stream_socket.h"
#include "tier/page_device.h"

namespace farswap::nbd {

class Connection final : private ParkedRequests::Answerer {
 public:
  /// Takes over the socket, a stream after its handshake, also on failure. `initial`: bytes that
  /// the client sent after the handshake. The state ends with the process.
  static Result<std::unique_ptr<Connection>> Create(tier::PageDevice* tier,
                                                    std::uint64_t export_bytes, int socket,
                                                    std::span<const std::byte> initial);
  /// Goes on from a state, new or of a process that died. The socket keeps its positions there.
  static Result<std::unique_ptr<Connection>> Resume(tier::PageDevice* tier,
                                                    std::uint64_t export_bytes,
                                                    ConnectionState* state,
                                                    std::unique_ptr<StreamSocket> socket);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Serves the client until it leaves, is shut down or sends a bad magic. Call once.
  void Run();
  /// Makes Run() return soon. Any thread.
  void Shutdown() { socket_->Shutdown(); }

  std::uint64_t requests() const { return requests_.load(std::memory_order_relaxed); }
  /// Number of requests answered with an error.
  std::uint64_t errors() const { return errors_.load(std::memory_order_relaxed); }
  /// Reason of the latest refusal of an illegal request; "" if none.
  const char* last_refusal() const { return last_refusal_.load(std::memory_order_relaxed); }

 private:
  using State = ConnectionState;
  using Record = ConnectionState::Record;

  /// Why a generation handles no more of what was received.
  enum class Stop : std::uint8_t { kNeedsBytes, kRepliesFull, kNeedsMemory, kEnded };
  enum class Handled : std::uint8_t { kDone, kRepliesFull, kNeedsMemory };

  Connection(tier::PageDevice* tier, std::uint64_t export_bytes, ConnectionState* state,
             std::unique_ptr<StreamSocket> socket)
      : tier_(tier), state_(*state), socket_(std::move(socket)), parser_(export_bytes) {}

  // Generations (connection.cc): for the holder of the mutex.
  void Continue();
  bool Receive();
  bool WaitReadable();
  void Execute(bool received);
  void MakeReady();
  bool Finish(bool may_wait);
  void Close();
  bool AnyDone() { return done_.Any() || parked_->AnyDone(); }
  bool AnyParked() const;

  // ParkedRequests::Answerer.
  bool TryHold() override { return state_.mutex.TryLock(); }
  bool AnswerAndRelease() override;

  // Requests (connection_requests.cc): step 2.
  void HandleReceived();
  Handled HandleRequest(const Request& request, bool refuse);
  Handled Read(const Request& request);
  Handled ParkRead(const Request& request, std::span<const std::byte> loaded);
  std::size_t WritePayload(const ParserEvent& event);
  tier::IoStatus StorePage(std::uint64_t cookie, tier::SlotIndex slot, const std::byte* page);
  void Forget(std::uint64_t offset, std::uint64_t length);
  void Reply(WireError error, std::uint64_t cookie);
  bool HasReplyRoom(std::size_t data_bytes) const {
    return reply_end_ + kSimpleReplyBytes + data_bytes <= State::kReplyBytes;
  }
  void AnswerDone();
  void FinishStore(std::size_t index);
  bool AnswerRead(std::size_t index);
  void AnswerWrite(std::size_t index);
  void RestartParked();
  void CancelWrites();

  tier::PageDevice* const tier_;
  std::unique_ptr<Memory> memory_;  // of a state that ends with the process
  State& state_;
  const std::unique_ptr<StreamSocket> socket_;
  std::unique_ptr<ParkedRequests> parked_;
  FileDescriptor wake_;  // eventfd: replies are left to the connection's thread

  // The holder's, beside the state. parser_ and [begin_, end_) are at the record's until it
  // executes.
  RequestParser parser_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t reply_end_ = 0;
  Stop stop_ = Stop::kRepliesFull;  // a successor handles what is there before it receives
  bool freed_ = false;              // the generation has freed memory of parked requests
  bool gone_ = false;               // a send has failed: replies are dropped
  ParkedRequests::DoneParts done_;  // not yet answered
  Bits<State::kParkedWrites> done_writes_;
  Bits<State::kParkedWrites> dropped_writes_;  // are not answered
  std::array<std::uint32_t, State::kParkedWrites> stores_left_{};

  std::atomic<std::uint64_t> requests_{0};
  std::atomic<std::uint64_t> errors_{0};
  std::atomic<const char*> last_refusal_{""};
};

/// The error of the reply, by the outcome of an operation of the tier.
WireError ErrorOf(tier::IoStatus status);

}  // namespace farswap::nbd
