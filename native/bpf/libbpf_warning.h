// Turns libbpf's explanations of failures, which go to stderr by default, into error messages.
#pragma once

#include <string>

namespace farswap::bpf {

/// Catches libbpf's warnings on this thread during its lifetime. One at a time per thread.
class LibbpfWarning {
 public:
  LibbpfWarning();
  ~LibbpfWarning();
  LibbpfWarning(const LibbpfWarning&) = delete;
  LibbpfWarning& operator=(const LibbpfWarning&) = delete;

  /// `what`, the text of the error number, and the first line of libbpf's explanation.
  std::string Explain(const std::string& what, int error_number) const;
};

}  // namespace farswap::bpf
