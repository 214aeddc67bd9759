// PageServer for Python.
#pragma once

#include <nanobind/nanobind.h>

namespace farswap::bind {

/// Adds PageServer and Volume to the module.
void BindPageServer(nanobind::module_& m);

}  // namespace farswap::bind
