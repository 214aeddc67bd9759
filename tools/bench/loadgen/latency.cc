#include "loadgen/latency.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace farswap::bench {

std::size_t LatencyHistogram::BucketOf(std::uint64_t latency_ns) {
  if (latency_ns < kSubBuckets) {
    return static_cast<std::size_t>(latency_ns);
  }
  const auto octave = static_cast<unsigned>(std::bit_width(latency_ns)) - 1 - kSubBits;
  const std::uint64_t sub = (latency_ns >> octave) & (kSubBuckets - 1);
  return (std::size_t{octave} + 1) * kSubBuckets + static_cast<std::size_t>(sub);
}

std::uint64_t LatencyHistogram::MiddleOf(std::size_t bucket) {
  if (bucket < kSubBuckets) {
    return bucket;
  }
  const std::size_t octave = bucket / kSubBuckets - 1;
  const std::uint64_t low = (kSubBuckets + bucket % kSubBuckets) << octave;
  return low + ((std::uint64_t{1} << octave) >> 1);
}

void LatencyHistogram::Count(std::uint64_t latency_ns) {
  ++buckets_[BucketOf(latency_ns)];
  ++count_;
  sum_ns_ += latency_ns;
  max_ns_ = std::max(max_ns_, latency_ns);
}

void LatencyHistogram::Merge(const LatencyHistogram& other) {
  for (std::size_t i = 0; i < kBuckets; ++i) {
    buckets_[i] += other.buckets_[i];
  }
  count_ += other.count_;
  sum_ns_ += other.sum_ns_;
  max_ns_ = std::max(max_ns_, other.max_ns_);
}

void LatencyHistogram::Clear() { *this = LatencyHistogram(); }

double LatencyHistogram::MeanNs() const {
  return count_ == 0 ? 0.0 : static_cast<double>(sum_ns_) / static_cast<double>(count_);
}

std::uint64_t LatencyHistogram::PercentileNs(double fraction) const {
  const auto wanted = static_cast<std::uint64_t>(std::ceil(fraction * static_cast<double>(count_)));
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < kBuckets; ++i) {
    seen += buckets_[i];
    if (seen >= wanted && seen > 0) {
      return std::min(MiddleOf(i), max_ns_);
    }
  }
  return 0;
}

}  // namespace farswap::bench
