// Memory that never faults: mapped, populated and, if the limits allow it, locked.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "base/result.h"

namespace farswap {

/// One anonymous mapping, zero-filled and populated, unmapped by the destructor. Requests
/// transparent huge pages.
class LockedMapping {
 public:
  static Result<std::unique_ptr<LockedMapping>> Create(std::size_t bytes, const std::string& name);
  ~LockedMapping();
  LockedMapping(const LockedMapping&) = delete;
  LockedMapping& operator=(const LockedMapping&) = delete;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  LockedMapping(std::byte* data, std::size_t bytes) : data_(data), bytes_(bytes) {}

  std::byte* const data_;
  const std::size_t bytes_;
};

}  // namespace farswap
