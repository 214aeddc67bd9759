#include "loadgen/op_source.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "loadgen/corpus.h"
#include "loadgen/history.h"

namespace farswap::bench {

std::uint64_t Draft::pages() const {
  return (offset + length + kPageBytes - 1) / kPageBytes - offset / kPageBytes;
}

OpSource::OpSource(const Phase& phase, std::uint32_t worker, std::uint32_t workers,
                   std::uint64_t device_slots, bool shared, std::uint64_t seed,
                   const History& history)
    : phase_(phase), random_(Mix(seed) ^ Mix(worker + 1)) {
  for (std::uint32_t weight : phase.weights) {
    weights_sum_ += weight;
  }
  const std::uint64_t first = std::min(phase.first_slot, device_slots);
  const std::uint64_t end =
      phase.slot_count == 0 ? device_slots : std::min(device_slots, first + phase.slot_count);
  const bool everywhere = shared && phase.order == Order::kRandom;
  for (std::uint64_t stripe = first / kStripeSlots; stripe * kStripeSlots < end; ++stripe) {
    if (everywhere || stripe % workers == worker) {
      extents_.push_back(Extent{std::max(first, stripe * kStripeSlots),
                                std::min(end, (stripe + 1) * kStripeSlots)});
    }
  }
  if (phase.order != Order::kRandom) {
    PlanOnce(history);
  }
}

void OpSource::PlanOnce(const History& history) {
  for (const Extent& extent : extents_) {
    for (std::uint64_t slot = extent.begin; slot < extent.end; slot += phase_.request_pages_min) {
      if (slot + phase_.request_pages_min <= extent.end &&
          !(phase_.skip_repeated && history.IsRepeated(slot))) {
        once_.push_back(slot);
      }
    }
  }
  if (phase_.order == Order::kOnceRandom) {
    for (std::size_t left = once_.size(); left > 1; --left) {
      std::swap(once_[left - 1], once_[static_cast<std::size_t>(random_.Below(left))]);
    }
  }
}

Op OpSource::DrawOp() {
  std::uint64_t drawn = random_.Below(weights_sum_);
  for (std::size_t op = 0; op < kOpCount; ++op) {
    if (drawn < phase_.weights[op]) {
      return static_cast<Op>(op);
    }
    drawn -= phase_.weights[op];
  }
  return Op::kRead;
}

std::uint64_t OpSource::DrawPages() {
  if (phase_.request_pages_min == phase_.request_pages_max) {
    return phase_.request_pages_min;
  }
  // As many requests of 1 page as of 2-3, of 4-7, ...
  const auto octaves = static_cast<std::uint64_t>(std::bit_width(phase_.request_pages_max));
  const std::uint64_t low = std::uint64_t{1} << random_.Below(octaves);
  return std::clamp(low + random_.Below(low), phase_.request_pages_min, phase_.request_pages_max);
}

Draft OpSource::DrawRandom() {
  const Op op = DrawOp();
  if (op == Op::kFlush) {
    return Draft{op, 0, 0};
  }
  const Extent& extent = extents_[static_cast<std::size_t>(random_.Below(extents_.size()))];
  const std::uint64_t room = extent.end - extent.begin;
  const std::uint64_t pages = std::min(DrawPages(), room);
  const std::uint64_t slot = extent.begin + random_.Below(room - pages + 1);
  return Draft{op, slot * kPageBytes, static_cast<std::uint32_t>(pages * kPageBytes)};
}

std::optional<Draft> OpSource::Next() {
  if (extents_.empty()) {
    return std::nullopt;
  }
  if (phase_.order == Order::kRandom) {
    return DrawRandom();
  }
  if (once_.empty() || (next_ == once_.size() && phase_.order != Order::kSequential)) {
    return std::nullopt;
  }
  next_ = next_ == once_.size() ? 0 : next_;
  const std::uint64_t slot = once_[next_++];
  return Draft{DrawOp(), slot * kPageBytes,
               static_cast<std::uint32_t>(phase_.request_pages_min * kPageBytes)};
}

}  // namespace farswap::bench
