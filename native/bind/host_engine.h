// Engine for Python, as HostEngine. host_engine.cc binds its methods for connections and servers,
// host_tier.cc those for the tier and its cgroups, host_attribution.cc those for attribution.
// Methods that may wait or take a lock of the data path release the GIL.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>

#include "bind/engine.h"

namespace farswap::bind {

namespace nb = nanobind;

struct SlotExplanation : tier::Explanation {
  std::uint64_t slot;
  std::vector<remote::Cluster::ReplicaInfo> replicas;
};

/// Of the name of a kind that outlives its process.
MemoryKind KindOf(const std::string& name);

/// Adds State, which has the pages.
void BindHostState(nb::module_& m);

/// Adds HostEngine, its records and enter_reclaim_path() to the module.
void BindHostEngine(nb::module_& m);

/// Adds the methods for the tier and its cgroups.
void BindHostTier(nb::module_& m, nb::class_<Engine>& engine);

/// Adds the methods for attribution.
void BindHostAttribution(nb::module_& m, nb::class_<Engine>& engine);

}  // namespace farswap::bind
