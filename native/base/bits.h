// A fixed set of small numbers, of plain layout: it may lie in memory that outlives the process.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace farswap {

template <std::size_t kCount>
class Bits {
 public:
  static_assert(kCount % 64 == 0);

  bool Test(std::size_t at) const { return (words_[at / 64] >> at % 64 & 1) != 0; }
  void Set(std::size_t at) { words_[at / 64] |= std::uint64_t{1} << at % 64; }
  void Reset(std::size_t at) { words_[at / 64] &= ~(std::uint64_t{1} << at % 64); }
  bool Any() const {
    std::uint64_t any = 0;
    for (const std::uint64_t word : words_) any |= word;
    return any != 0;
  }
  /// Calls use(number) for each number of the set when it began, in order.
  template <typename Use>
  void ForEach(Use use) const {
    for (std::size_t i = 0; i < words_.size(); ++i) {
      for (std::uint64_t rest = words_[i]; rest != 0; rest &= rest - 1) {
        use(i * 64 + static_cast<std::size_t>(std::countr_zero(rest)));
      }
    }
  }
  void Add(const Bits& other) {
    for (std::size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
  }
  /// The smallest number in neither set; kCount: there is none.
  static std::size_t FirstFree(const Bits& one, const Bits& other) {
    for (std::size_t i = 0; i < one.words_.size(); ++i) {
      const std::uint64_t used = one.words_[i] | other.words_[i];
      if (~used != 0) return i * 64 + static_cast<std::size_t>(std::countr_one(used));
    }
    return kCount;
  }

 private:
  std::array<std::uint64_t, kCount / 64> words_{};
};

}  // namespace farswap
