// One NBD connection, kept `depth` requests deep by one thread: sends what is drawn in one
// sendmsg(2), takes in as many replies as one recv(2) brings, checks each where it lies.
//
// Never blocks in a send while replies wait (a server that blocks on sending to us would never read
// on): the socket is sent to without blocking, and only with nothing left to send does it block in
// recv, which keeps a single request at depth 1 as cheap as a plain blocking client.
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "loadgen/history.h"
#include "loadgen/latency.h"
#include "loadgen/nbd_socket.h"
#include "loadgen/op_source.h"
#include "loadgen/options.h"

namespace farswap::bench {

/// Set by a signal, or by the first worker that cannot go on.
extern std::atomic<bool> stop_requested;
/// Ends the current phase.
extern std::atomic<bool> phase_ended;
/// Whether latencies are also counted as marked.
extern std::atomic<bool> latency_marked;

enum class Trouble : std::uint8_t { kNone, kStall, kConnection };

/// What one worker did in one phase. Counters that the progress line reads are atomic.
struct PhaseResult {
  std::atomic<std::uint64_t> page_ops{0};
  std::atomic<std::uint64_t> errors_sum{0};
  std::atomic<std::uint64_t> mismatches_sum{0};
  std::array<std::atomic<std::uint64_t>, kOpCount> slowest_ns{};  // since the last progress line

  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
  std::array<LatencyHistogram, kOpCount> latency;
  std::array<LatencyHistogram, kOpCount> marked_latency;
  std::array<std::map<std::uint32_t, std::uint64_t>, kOpCount> errors;  // NBD error -> requests
  Findings findings;
  Trouble trouble = Trouble::kNone;
  std::string trouble_message;
};

class Worker {
 public:
  Worker(std::uint32_t index, NbdSocket socket, const Options& options, History* history);
  ~Worker();  // NBD_CMD_DISC
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Runs the phase to its end; `page_ops_max` and `seconds` of 0 are no limit.
  void Run(const Phase& phase, std::uint64_t page_ops_max, PhaseResult* result);
  const Export& exported() const { return socket_.exported(); }

 private:
  static constexpr std::size_t kReceiveBytes = std::size_t{1} << 20;
  static constexpr int kPollMs = 200;

  void Prepare(const Phase& phase, PhaseResult* result);
  bool AheadOfRate() const;
  bool Refill(OpSource* source, std::uint64_t page_ops_max);
  bool Issue(const Draft& draft);
  void Queue(const Request& request, std::size_t index);
  void QueueBytes(const std::byte* bytes, std::size_t length);
  bool Flush();
  bool Receive();
  bool WaitAndReceive();
  bool TakeReplies();
  bool TakeReply(const Reply& reply, const std::byte* payload);
  void CountLatency(std::size_t op, std::uint64_t latency_ns);
  bool CheckStall();
  bool Fail(Trouble trouble, std::string message);

  const std::uint32_t index_;
  NbdSocket socket_;
  const Options& options_;
  History* history_;

  const Phase* phase_ = nullptr;
  PhaseResult* result_ = nullptr;
  std::vector<Request> requests_;  // depth of them; index = low half of the handle
  std::vector<std::uint32_t> free_;
  std::uint64_t serial_ = 0;
  std::uint64_t page_ops_issued_ = 0;
  std::uint64_t began_ns_ = 0;  // the phase
  std::optional<Draft> postponed_;
  std::uint64_t now_ns_ = 0;
  std::uint64_t last_reply_ns_ = 0;

  // Headers lie in a ring of `depth`: one is reused after `depth` more requests, so after its
  // reply.
  std::vector<std::byte> headers_;
  std::vector<iovec> out_;
  std::size_t out_done_ = 0;  // iovecs sent whole

  std::vector<std::byte> in_;
  std::size_t in_begin_ = 0;
  std::size_t in_end_ = 0;
};

/// CLOCK_MONOTONIC in nanoseconds.
std::uint64_t NowNs();

}  // namespace farswap::bench
