// libbpf explains failures to stderr. Here it tells them to whoever asks, who may tell an operator.
#pragma once

#include <string>

namespace farswap::bpf {

/// Catches what libbpf warns of on this thread as long as it lives. One at a time on a thread.
class LibbpfWarning {
 public:
  LibbpfWarning();
  ~LibbpfWarning();
  LibbpfWarning(const LibbpfWarning&) = delete;
  LibbpfWarning& operator=(const LibbpfWarning&) = delete;

  /// `what`, the error of this number, and the first line of libbpf's own explanation.
  std::string Explain(const std::string& what, int error_number) const;
};

}  // namespace farswap::bpf
