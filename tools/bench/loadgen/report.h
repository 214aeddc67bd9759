// What the load generator prints: one JSON object a line on standard output. Events "progress" and
// "waiting" come while it runs, "phase" after each phase, "done" at the end.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loadgen/options.h"
#include "loadgen/worker.h"

namespace farswap::bench {

using PhaseResults = std::vector<std::unique_ptr<PhaseResult>>;

std::string ProgressLine(const Phase& phase, const PhaseResults& results, double seconds);
std::string WaitingLine(const Phase& phase);
std::string PhaseLine(const Phase& phase, const PhaseResults& results, double seconds);

struct Totals {
  std::uint64_t page_ops = 0;
  std::uint64_t mismatched_pages = 0;
  std::uint64_t errors = 0;
  Trouble trouble = Trouble::kNone;
  bool interrupted = false;

  void Add(const PhaseResults& results);
};
std::string DoneLine(const Totals& totals);

}  // namespace farswap::bench
