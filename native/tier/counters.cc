#include "tier/counters.h"

namespace farswap::tier {
namespace {

constexpr struct {
  const char* name;
  const char* description;
} kTexts[] = {
#define FARSWAP_TIER_COUNTER(name, description) {#name, description},
#include "tier/counters.inc"
#undef FARSWAP_TIER_COUNTER
};

}  // namespace

const char* CounterName(Counter counter) { return kTexts[static_cast<std::size_t>(counter)].name; }

const char* CounterDescription(Counter counter) {
  return kTexts[static_cast<std::size_t>(counter)].description;
}

}  // namespace farswap::tier
