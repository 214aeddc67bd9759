#include "tier/counters.h"

namespace farswap::tier {

const char* CounterName(Counter counter) {
  static constexpr const char* kNames[] = {
#define FARSWAP_TIER_COUNTER(name, description) #name,
#include "tier/counters.inc"
#undef FARSWAP_TIER_COUNTER
  };
  return kNames[static_cast<std::size_t>(counter)];
}

const char* CounterDescription(Counter counter) {
  static constexpr const char* kDescriptions[] = {
#define FARSWAP_TIER_COUNTER(name, description) description,
#include "tier/counters.inc"
#undef FARSWAP_TIER_COUNTER
  };
  return kDescriptions[static_cast<std::size_t>(counter)];
}

}  // namespace farswap::tier
