// Which function of the running kernel frees swap slots. It has had another name and other
// arguments every few releases; all frees of an area go through it, under a lock that keeps the
// slot from being allocated again until it returns:
//
//   6.1 - 6.8    swap_range_free(area, slot, pages)
//   6.9 - 6.12   swap_entry_range_free(area, entry, pages)
//   6.13 - 6.15  swap_entry_range_free(area, cluster, entry, pages)
//   6.16 -       swap_entries_free(area, cluster, entry, pages)
//
// Not __mem_cgroup_uncharge_swap, which all of them have: with version 1 cgroups it is also called
// when a page is read, and dropping pages by it lost some.
#pragma once

#include <optional>

struct btf;

namespace farswap::bpf {

struct FreeHook {
  const char* function;
  int arguments;
};

/// The hook of the kernel that `kernel_types` (BTF) describes; none if it has no known one. The
/// functions of the table above are told apart by name, number of arguments, and the swap area
/// coming first.
std::optional<FreeHook> ChooseFreeHook(const btf* kernel_types);

}  // namespace farswap::bpf
