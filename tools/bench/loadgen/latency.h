// Latency histograms: log-linear buckets (64 a doubling, so at most 1.6 % wrong), no allocation
// when a value is counted. Each worker owns its own; they are merged for the report.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace farswap::bench {

class LatencyHistogram {
 public:
  void Count(std::uint64_t latency_ns);
  void Merge(const LatencyHistogram& other);
  void Clear();

  std::uint64_t count() const { return count_; }
  std::uint64_t max_ns() const { return max_ns_; }
  double MeanNs() const;
  /// The latency that `fraction` (0..1) of the values do not exceed; 0 when there are none.
  std::uint64_t PercentileNs(double fraction) const;

 private:
  static constexpr unsigned kSubBits = 6;
  static constexpr std::size_t kSubBuckets = std::size_t{1} << kSubBits;
  static constexpr std::size_t kBuckets = (64 - kSubBits + 1) * kSubBuckets;

  static std::size_t BucketOf(std::uint64_t latency_ns);
  static std::uint64_t MiddleOf(std::size_t bucket);

  std::array<std::uint64_t, kBuckets> buckets_{};
  std::uint64_t count_ = 0;
  std::uint64_t sum_ns_ = 0;
  std::uint64_t max_ns_ = 0;
};

}  // namespace farswap::bench
