#include "bpf/free_hook.h"

#include <bpf/btf.h>

#include <array>
#include <string_view>

namespace farswap::bpf {
namespace {

// Newer kernels still have swap_range_free, called by those above it; so they come first.
constexpr std::array kHooks{
    FreeHook{"swap_entries_free", 4},
    FreeHook{"swap_entry_range_free", 4},
    FreeHook{"swap_entry_range_free", 3},
    FreeHook{"swap_range_free", 3},
};

bool PointsToSwapArea(const btf* types, __u32 type_id) {
  const btf_type* pointer = btf__type_by_id(types, type_id);
  if (pointer == nullptr || !btf_is_ptr(pointer)) return false;
  const btf_type* area = btf__type_by_id(types, pointer->type);
  return area != nullptr && btf_is_struct(area) &&
         btf__name_by_offset(types, area->name_off) == std::string_view("swap_info_struct");
}

bool Has(const btf* types, const FreeHook& hook) {
  const int id = btf__find_by_name_kind(types, hook.function, BTF_KIND_FUNC);
  if (id < 0) return false;
  const btf_type* function = btf__type_by_id(types, static_cast<__u32>(id));
  const btf_type* prototype = btf__type_by_id(types, function->type);
  return prototype != nullptr && btf_is_func_proto(prototype) &&
         btf_vlen(prototype) == hook.arguments &&
         PointsToSwapArea(types, btf_params(prototype)[0].type);
}

}  // namespace

std::optional<FreeHook> ChooseFreeHook(const btf* kernel_types) {
  for (const FreeHook& hook : kHooks) {
    if (Has(kernel_types, hook)) return hook;
  }
  return std::nullopt;
}

}  // namespace farswap::bpf
