// The function of the running kernel that frees swap slots. Its name and arguments change every few
// releases. All frees of a swap area go through it, under a lock that delays the slot's next
// allocation until it returns:
//
//   6.1 - 6.8    swap_range_free(area, slot, pages)
//   6.9 - 6.12   swap_entry_range_free(area, entry, pages)
//   6.13 - 6.15  swap_entry_range_free(area, cluster, entry, pages)
//   6.16 -       swap_entries_free(area, cluster, entry, pages)
//
// Not __mem_cgroup_uncharge_swap, which all of them have: with version 1 cgroups the kernel also
// calls it when it reads a page, and a page dropped then may be read again.
#pragma once

#include <optional>

struct btf;

namespace farswap::bpf {

struct FreeHook {
  const char* function;
  int arguments;
};

/// The hook of the kernel that `kernel_types` (BTF) describes; nullopt if it has none of the above.
/// They are recognized by name, number of arguments, and the swap area as first argument.
std::optional<FreeHook> ChooseFreeHook(const btf* kernel_types);

}  // namespace farswap::bpf
