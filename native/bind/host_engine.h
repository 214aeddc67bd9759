// HostEngine for Python: the host's data path.
#pragma once

#include <nanobind/nanobind.h>

namespace farswap::bind {

/// Adds HostEngine, its records and enter_reclaim_path() to the module.
void BindHostEngine(nanobind::module_& m);

}  // namespace farswap::bind
