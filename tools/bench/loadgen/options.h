// The command line: where to connect, what the pages are, and the phases that run one after another
// over the same connections and the same write history.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace farswap::bench {

enum class Op : std::uint8_t { kRead, kWrite, kTrim, kZero, kFlush };
inline constexpr std::size_t kOpCount = 5;
const char* OpName(Op op);

enum class Order : std::uint8_t { kRandom, kSequential, kOnce, kOnceRandom };

struct Phase {
  std::string name;
  std::array<std::uint32_t, kOpCount> weights{1, 0, 0, 0, 0};
  Order order = Order::kRandom;
  std::uint64_t request_pages_min = 1;
  std::uint64_t request_pages_max = 1;
  bool skip_repeated = false;     // leave out slots of one repeated word (not order=random)
  bool fua = false;               // every write, trim and zero with FUA
  bool wait = false;              // begin only after a line on standard input
  std::uint32_t connections = 0;  // how many of the connections take part; 0: all
  std::uint32_t depth = 64;       // requests in flight a connection
  std::uint64_t page_ops = 0;     // stop after so many pages, over all connections; 0: no limit
  std::uint64_t rate = 0;  // at most so many pages a second, over all connections; 0: no limit
  double seconds = 0;      // stop after so long; 0: no limit
  std::uint64_t first_slot = 0;
  std::uint64_t slot_count = 0;  // 0: to the end of the device
};

struct Options {
  std::string connect;  // unix:/path or tcp:host:port
  std::string export_name;
  std::uint32_t connections = 1;
  std::string corpus_path;  // empty: synthetic pages
  std::uint64_t synthetic_pages = 8192;
  bool pure = false;    // real pages as they are, without stamps
  bool shared = false;  // all connections on the same slots
  std::uint64_t seed = 1;
  std::uint32_t stall_ms = 30000;  // no reply for so long with requests in flight: failure
  std::uint32_t progress_ms = 0;   // a progress line so often; 0: none
  std::vector<Phase> phases;
};

/// Slots of one stripe: in a phase of n connections, connection c owns the stripes s with s % n ==
/// c, and no request crosses a stripe. Phases follow one another, so n may differ.
inline constexpr std::uint64_t kStripeSlots = 64;

Result<Options> ParseOptions(int argc, char** argv);
extern const char* const kUsage;

}  // namespace farswap::bench
