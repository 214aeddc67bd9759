// The function that frees slots, on descriptions of past and present kernels.
#include <bpf/btf.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "bpf/free_hook.h"

namespace farswap::bpf {
namespace {

/// The types of a kernel with these functions, each `name(first, and so many more numbers)`.
class KernelTypes {
 public:
  KernelTypes() : types_(btf__new_empty(), &btf__free) {
    number_ = btf__add_int(types_.get(), "unsigned long", 8, 0);
    const int area = btf__add_struct(types_.get(), "swap_info_struct", 8);
    const int other = btf__add_struct(types_.get(), "swap_cluster_info", 8);
    area_ = btf__add_ptr(types_.get(), area);
    other_ = btf__add_ptr(types_.get(), other);
  }

  KernelTypes& Function(const std::string& name, int arguments) {
    return Add(name, area_, arguments);
  }
  KernelTypes& FunctionOfOther(const std::string& name, int arguments) {
    return Add(name, other_, arguments);
  }

  std::string Chosen() const {
    const auto hook = ChooseFreeHook(types_.get());
    return hook ? std::string(hook->function) + "/" + std::to_string(hook->arguments) : "none";
  }

 private:
  KernelTypes& Add(const std::string& name, int first, int arguments) {
    const int prototype = btf__add_func_proto(types_.get(), 0);
    btf__add_func_param(types_.get(), "first", first);
    for (int i = 1; i < arguments; ++i) btf__add_func_param(types_.get(), "more", number_);
    btf__add_func(types_.get(), name.c_str(), BTF_FUNC_STATIC, prototype);
    return *this;
  }

  std::unique_ptr<btf, decltype(&btf__free)> types_;
  int number_;
  int area_;
  int other_;
};

TEST(FreeHook, IsTheFunctionOfEachKernel) {
  EXPECT_EQ(KernelTypes().Function("swap_range_free", 3).Chosen(), "swap_range_free/3");
  EXPECT_EQ(
      KernelTypes().Function("swap_range_free", 3).Function("swap_entry_range_free", 3).Chosen(),
      "swap_entry_range_free/3");
  EXPECT_EQ(
      KernelTypes().Function("swap_range_free", 3).Function("swap_entry_range_free", 4).Chosen(),
      "swap_entry_range_free/4");
  EXPECT_EQ(KernelTypes().Function("swap_range_free", 3).Function("swap_entries_free", 4).Chosen(),
            "swap_entries_free/4");
}

TEST(FreeHook, IsNoneOnAKernelOfUnknownFunctions) {
  EXPECT_EQ(KernelTypes().Chosen(), "none");
  EXPECT_EQ(KernelTypes().Function("swap_table_free", 3).Chosen(), "none");
}

TEST(FreeHook, IsNoFunctionWithOtherArguments) {
  EXPECT_EQ(KernelTypes().Function("swap_entries_free", 3).Chosen(), "none");
  EXPECT_EQ(KernelTypes().Function("swap_entry_range_free", 5).Chosen(), "none");
  EXPECT_EQ(KernelTypes().FunctionOfOther("swap_entries_free", 4).Chosen(), "none");
}

TEST(FreeHook, IsNeverTheUnchargeOfSwap) {
  EXPECT_EQ(KernelTypes().Function("__mem_cgroup_uncharge_swap", 2).Chosen(), "none");
}

}  // namespace
}  // namespace farswap::bpf
