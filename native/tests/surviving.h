// Memory that outlives a process, of the best kind that the machine has.
#pragma once

#include <cstdlib>
#include <type_traits>
#include <utility>

#include "base/memory.h"

namespace farswap {

/// Of the arguments of a worker (KilledWorker::Inherit).
inline Memory::Handle HandleOf(const char* kind, const char* number) {
  return {static_cast<MemoryKind>(std::atoi(kind)), std::atoi(number)};
}

/// What `make(kind)` returns for the first kind that works; null: none does.
template <typename Make>
auto OfSurvivingKind(Make make) -> std::remove_reference_t<decltype(make(MemoryKind{}).value())> {
  for (const MemoryKind kind : kSurvivingKinds) {
    if (auto made = make(kind); made.ok()) return std::move(made.value());
  }
  return nullptr;
}

}  // namespace farswap
