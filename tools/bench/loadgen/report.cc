#include "loadgen/report.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>

namespace farswap::bench {
namespace {

std::string Quote(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
    }
    quoted += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return quoted + "\"";
}

std::string Number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3f", value);
  return text.data();
}

/// The NBD errors, which are Linux errno values by definition.
std::string ErrorName(std::uint32_t error) {
  switch (error) {
    case 1:
      return "EPERM";
    case 5:
      return "EIO";
    case 12:
      return "ENOMEM";
    case 22:
      return "EINVAL";
    case 28:
      return "ENOSPC";
    case 75:
      return "EOVERFLOW";
    case 95:
      return "ENOTSUP";
    case 108:
      return "ESHUTDOWN";
    default:
      return std::to_string(error);
  }
}

struct Merged {
  std::uint64_t page_ops = 0;
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
  std::uint64_t requests = 0;
  std::array<LatencyHistogram, kOpCount> latency;
  std::array<LatencyHistogram, kOpCount> marked_latency;
  std::array<std::map<std::uint32_t, std::uint64_t>, kOpCount> errors;
  Findings findings;
  std::vector<std::string> troubles;

  explicit Merged(const PhaseResults& results) {
    for (const auto& result : results) {
      Add(*result);
    }
  }

  void Add(const PhaseResult& result) {
    page_ops += result.page_ops;
    bytes_read += result.bytes_read;
    bytes_written += result.bytes_written;
    for (std::size_t op = 0; op < kOpCount; ++op) {
      latency[op].Merge(result.latency[op]);
      marked_latency[op].Merge(result.marked_latency[op]);
      requests += result.latency[op].count();
      for (const auto& [error, count] : result.errors[op]) {
        errors[op][error] += count;
      }
    }
    findings.mismatched_pages += result.findings.mismatched_pages;
    findings.verified_pages += result.findings.verified_pages;
    findings.zeros_after_failure += result.findings.zeros_after_failure;
    findings.unknown_pages += result.findings.unknown_pages;
    findings.messages.insert(findings.messages.end(), result.findings.messages.begin(),
                             result.findings.messages.end());
    if (!result.trouble_message.empty()) {
      troubles.push_back(result.trouble_message);
    }
  }
};

std::string LatencyJson(const LatencyHistogram& histogram) {
  const auto us = [](std::uint64_t ns) { return Number(static_cast<double>(ns) / 1000.0); };
  return "{\"count\":" + std::to_string(histogram.count()) +
         ",\"mean_us\":" + Number(histogram.MeanNs() / 1000.0) +
         ",\"p50_us\":" + us(histogram.PercentileNs(0.5)) +
         ",\"p99_us\":" + us(histogram.PercentileNs(0.99)) +
         ",\"p999_us\":" + us(histogram.PercentileNs(0.999)) +
         ",\"max_us\":" + us(histogram.max_ns()) + "}";
}

std::string OpsJson(const std::array<LatencyHistogram, kOpCount>& latency) {
  std::string json = "{";
  for (std::size_t op = 0; op < kOpCount; ++op) {
    if (latency[op].count() == 0) {
      continue;
    }
    json += (json.size() > 1 ? "," : "") + Quote(OpName(static_cast<Op>(op))) + ":" +
            LatencyJson(latency[op]);
  }
  return json + "}";
}

// Also resets it.
std::string SlowestJson(const PhaseResults& results) {
  std::string json = "{";
  for (std::size_t op = 0; op < kOpCount; ++op) {
    std::uint64_t slowest_ns = 0;
    for (const auto& result : results) {
      slowest_ns = std::max(slowest_ns, result->slowest_ns[op].exchange(0));
    }
    if (slowest_ns == 0) {
      continue;
    }
    json += (json.size() > 1 ? "," : "") + Quote(OpName(static_cast<Op>(op))) + ":" +
            Number(static_cast<double>(slowest_ns) / 1000.0);
  }
  return json + "}";
}

std::string ErrorsJson(const Merged& merged) {
  std::string json = "{";
  for (std::size_t op = 0; op < kOpCount; ++op) {
    for (const auto& [error, count] : merged.errors[op]) {
      json += (json.size() > 1 ? "," : "") +
              Quote(std::string(OpName(static_cast<Op>(op))) + " " + ErrorName(error)) + ":" +
              std::to_string(count);
    }
  }
  return json + "}";
}

std::string ListJson(const std::vector<std::string>& texts) {
  std::string json = "[";
  for (const std::string& text : texts) {
    json += (json.size() > 1 ? "," : "") + Quote(text);
  }
  return json + "]";
}

}  // namespace

std::string ProgressLine(const Phase& phase, const PhaseResults& results, double seconds) {
  std::uint64_t page_ops = 0;
  std::uint64_t errors = 0;
  std::uint64_t mismatches = 0;
  for (const auto& result : results) {
    page_ops += result->page_ops.load(std::memory_order_relaxed);
    errors += result->errors_sum.load(std::memory_order_relaxed);
    mismatches += result->mismatches_sum.load(std::memory_order_relaxed);
  }
  return "{\"event\":\"progress\",\"name\":" + Quote(phase.name) +
         ",\"seconds\":" + Number(seconds) + ",\"page_ops\":" + std::to_string(page_ops) +
         ",\"errors\":" + std::to_string(errors) +
         ",\"mismatched_pages\":" + std::to_string(mismatches) +
         ",\"slowest_us\":" + SlowestJson(results) + "}\n";
}

std::string WaitingLine(const Phase& phase) {
  return "{\"event\":\"waiting\",\"name\":" + Quote(phase.name) + "}\n";
}

std::string PhaseLine(const Phase& phase, const PhaseResults& results, double seconds) {
  const Merged merged(results);
  const double safe_seconds = seconds > 0 ? seconds : 1e-9;
  return "{\"event\":\"phase\",\"name\":" + Quote(phase.name) + ",\"seconds\":" + Number(seconds) +
         ",\"requests\":" + std::to_string(merged.requests) +
         ",\"page_ops\":" + std::to_string(merged.page_ops) +
         ",\"requests_per_s\":" + Number(static_cast<double>(merged.requests) / safe_seconds) +
         ",\"page_ops_per_s\":" + Number(static_cast<double>(merged.page_ops) / safe_seconds) +
         ",\"bytes_read\":" + std::to_string(merged.bytes_read) +
         ",\"bytes_written\":" + std::to_string(merged.bytes_written) +
         ",\"latency\":" + OpsJson(merged.latency) +
         ",\"marked_latency\":" + OpsJson(merged.marked_latency) +
         ",\"errors\":" + ErrorsJson(merged) +
         ",\"verified_pages\":" + std::to_string(merged.findings.verified_pages) +
         ",\"mismatched_pages\":" + std::to_string(merged.findings.mismatched_pages) +
         ",\"zeros_after_failure\":" + std::to_string(merged.findings.zeros_after_failure) +
         ",\"unknown_pages\":" + std::to_string(merged.findings.unknown_pages) +
         ",\"mismatches\":" + ListJson(merged.findings.messages) +
         ",\"troubles\":" + ListJson(merged.troubles) + "}\n";
}

void Totals::Add(const PhaseResults& results) {
  for (const auto& result : results) {
    page_ops += result->page_ops;
    errors += result->errors_sum;
    mismatched_pages += result->findings.mismatched_pages;
    if (result->trouble != Trouble::kNone) {
      trouble = result->trouble;
    }
  }
}

std::string DoneLine(const Totals& totals) {
  const bool ok =
      totals.mismatched_pages == 0 && totals.trouble == Trouble::kNone && !totals.interrupted;
  return "{\"event\":\"done\",\"ok\":" + std::string(ok ? "true" : "false") +
         ",\"interrupted\":" + (totals.interrupted ? "true" : "false") +
         ",\"page_ops\":" + std::to_string(totals.page_ops) +
         ",\"errors\":" + std::to_string(totals.errors) +
         ",\"mismatched_pages\":" + std::to_string(totals.mismatched_pages) + "}\n";
}

}  // namespace farswap::bench
