// What the device must hold: the write history that every read is checked against.
//
// A worker calls Begin() before it sends a request and End() when the reply is there. Two kinds:
// - ExclusiveHistory: connections own disjoint slots, and no request overlaps another in flight;
//   the expected bytes are known at every moment (a shadow of the device).
// - SharedHistory: all connections use the same slots at once; a page read may be any of the values
//   that its slot can have held between the request and the reply.
//
// A write that failed leaves {its bytes, zeros}: a refused store forgets what the slot held, so the
// older bytes coming back is a wrong answer. What fails otherwise is unknown until read or
// replaced.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "loadgen/corpus.h"
#include "loadgen/options.h"

namespace farswap::bench {

struct Request {
  Op op = Op::kRead;
  std::uint64_t offset = 0;
  std::uint32_t length = 0;

  std::uint64_t handle = 0;
  std::uint64_t issued_ns = 0;
  bool in_flight = false;

  const std::byte* payload = nullptr;  // of a write; set by Begin(), valid until End()
  std::uint64_t started = 0;           // SharedHistory: its clock
  std::uint32_t generation = 0;        // SharedHistory: of all pages written
  std::vector<std::byte> buffer;       // SharedHistory: the payload

  std::uint64_t first_slot() const { return offset / kPageBytes; }
  std::uint64_t end_slot() const { return (offset + length + kPageBytes - 1) / kPageBytes; }
};

/// What a worker found out; each has its own.
struct Findings {
  static constexpr std::size_t kMessagesMax = 16;

  std::uint64_t mismatched_pages = 0;
  std::uint64_t verified_pages = 0;
  std::uint64_t zeros_after_failure = 0;  // pages that a refused write left as zeros
  std::uint64_t unknown_pages = 0;        // read, but nothing was known about them
  std::vector<std::string> messages;

  void AddMismatch(std::string message);
};

class History {
 public:
  virtual ~History() = default;
  /// False: it overlaps a request in flight, choose another.
  virtual bool Begin(std::uint32_t worker, Request* request) = 0;
  /// `bytes` are those of a successful read; `error` is the NBD error, 0 for none.
  virtual void End(std::uint32_t worker, Request* request, std::uint32_t error,
                   const std::byte* bytes, Findings* findings) = 0;
  /// Whether the slot is known to hold one repeated word, or nothing.
  virtual bool IsRepeated(std::uint64_t slot) const = 0;
};

Result<std::unique_ptr<History>> MakeExclusiveHistory(std::uint64_t slots, const Corpus* corpus);
std::unique_ptr<History> MakeSharedHistory(std::uint64_t slots, std::uint32_t workers,
                                           const Corpus* corpus);

}  // namespace farswap::bench
