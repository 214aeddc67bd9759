// FARSWAP_CHECK(condition) holds an invariant in every build: a violation is our bug, and going on
// might lose a page. For conditions on values at hand; it prints file, line and expression, and
// aborts.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace farswap {

[[noreturn, gnu::cold, gnu::noinline]] inline void CheckFailed(const char* file, int line,
                                                               const char* expression) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, expression);
  std::abort();
}

}  // namespace farswap

#define FARSWAP_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::farswap::CheckFailed(__FILE__, __LINE__, #condition))
