// Results with an error message. Native code throws no exceptions across bind/.
#pragma once

#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace farswap {

/// What failed, for the operator.
struct Error {
  std::string message;
};

/// Either a value or an Error. Check `ok()` before `value()`; both accessors assert.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}
  Result(Error error) : state_(std::move(error)) {}

  bool ok() const { return std::holds_alternative<T>(state_); }
  T& value() {
    FARSWAP_CHECK(ok());
    return *std::get_if<T>(&state_);
  }
  const Error& error() const {
    FARSWAP_CHECK(!ok());
    return *std::get_if<Error>(&state_);
  }

 private:
  std::variant<T, Error> state_;
};

/// The result of something that yields no value.
using Outcome = Result<std::monostate>;

}  // namespace farswap
