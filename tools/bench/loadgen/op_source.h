// Chooses what a worker does next: one instance a worker and phase, deterministic for a seed.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "loadgen/options.h"
#include "loadgen/random.h"

namespace farswap::bench {

class History;

struct Draft {
  Op op = Op::kRead;
  std::uint64_t offset = 0;
  std::uint32_t length = 0;

  std::uint64_t pages() const;
};

class OpSource {
 public:
  /// `shared`: order=random draws from the whole range, not from the worker's stripes alone.
  OpSource(const Phase& phase, std::uint32_t worker, std::uint32_t workers,
           std::uint64_t device_slots, bool shared, std::uint64_t seed, const History& history);

  /// Nothing when an `once` order is through, or the worker owns no slot of the range.
  std::optional<Draft> Next();
  /// Requests of an `once` order; 0 for the others.
  std::uint64_t once_requests() const { return once_.size(); }

 private:
  struct Extent {
    std::uint64_t begin;
    std::uint64_t end;
  };

  Op DrawOp();
  std::uint64_t DrawPages();
  Draft DrawRandom();
  void PlanOnce(const History& history);

  const Phase& phase_;
  Random random_;
  std::uint64_t weights_sum_ = 0;
  std::vector<Extent> extents_;      // what random requests fall into
  std::vector<std::uint64_t> once_;  // first slots, in order
  std::size_t next_ = 0;
};

}  // namespace farswap::bench
