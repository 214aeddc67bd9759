#include "bpf/libbpf_warning.h"

#include <bpf/libbpf.h>

#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string_view>

namespace farswap::bpf {
namespace {

// The first warning is the cause; later ones are its consequences and the verifier's log.
thread_local std::string first_warning;

__attribute__((format(printf, 2, 0))) int Catch(libbpf_print_level level, const char* format,
                                                va_list arguments) {
  if (level != LIBBPF_WARN || !first_warning.empty()) return 0;
  std::array<char, 512> text{};
  const int length = std::vsnprintf(text.data(), text.size(), format, arguments);
  std::string_view line(text.data());
  line = line.substr(0, line.find('\n'));
  constexpr std::string_view kPrefix = "libbpf: ";
  if (line.starts_with(kPrefix)) line.remove_prefix(kPrefix.size());
  first_warning = line;
  return length;
}

}  // namespace

LibbpfWarning::LibbpfWarning() {
  first_warning.clear();
  libbpf_set_print(&Catch);
}

LibbpfWarning::~LibbpfWarning() { first_warning.clear(); }

std::string LibbpfWarning::Explain(const std::string& what, int error_number) const {
  const std::string error = std::strerror(error_number);
  if (first_warning.empty()) return what + ": " + error;
  // Most warnings end with the error.
  const bool has_error = first_warning.find(error) != std::string::npos;
  return what + ": " + (has_error ? first_warning : error + " (" + first_warning + ")");
}

}  // namespace farswap::bpf
