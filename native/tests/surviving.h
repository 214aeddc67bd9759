// Memory that outlives a process, of the best kind that the machine has.
#pragma once

#include <type_traits>
#include <utility>

#include "base/memory.h"

namespace farswap {

/// What `make(kind)` returns for the first kind that works; null: none does.
template <typename Make>
auto OfSurvivingKind(Make make) -> std::remove_reference_t<decltype(make(MemoryKind{}).value())> {
  for (const MemoryKind kind : kSurvivingKinds) {
    if (auto made = make(kind); made.ok()) return std::move(made.value());
  }
  return nullptr;
}

}  // namespace farswap
