// Counters of the memory server, one per reason, since the process started.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace farswap::store {

enum class Counter : std::uint8_t {
#define FARSWAP_STORE_COUNTER(name, description) name,
#include "store/counters.inc"
#undef FARSWAP_STORE_COUNTER
  kCount
};

inline constexpr std::size_t kCounterCount = static_cast<std::size_t>(Counter::kCount);

/// "stores", "gets_not_found", ...: the identifier of counters.inc.
inline const char* CounterName(Counter counter) {
  static constexpr std::array<const char*, kCounterCount> kNames = {
#define FARSWAP_STORE_COUNTER(name, description) #name,
#include "store/counters.inc"
#undef FARSWAP_STORE_COUNTER
  };
  return kNames[static_cast<std::size_t>(counter)];
}

/// Shared by all threads of a server. Relaxed: counters order no other memory access.
class Counters {
 public:
  void Add(Counter counter, std::uint64_t n = 1) {
    values_[static_cast<std::size_t>(counter)].fetch_add(n, std::memory_order_relaxed);
  }
  std::uint64_t Get(Counter counter) const {
    return values_[static_cast<std::size_t>(counter)].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<std::uint64_t>, kCounterCount> values_{};
};

}  // namespace farswap::store
