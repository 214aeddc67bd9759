// Random small fleets under all faults at once, with calm days in between, in which everything must
// come to rest.
#pragma once

#include <cstdint>
#include <string>

namespace farswap::sim {

/// What the fleet of that seed breaks; "" for none.
std::string Check(std::uint64_t seed);

}  // namespace farswap::sim
