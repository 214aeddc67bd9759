// The pages that are written: real ones from a file, or a synthetic mix. The content of a slot's
// generation is a pure function of (seed, slot, generation), so that any page can be generated
// again.
//
// A stamped page carries slot and generation in its first 16 bytes: a page delivered for another
// slot or another time is caught even if the corpus page is the same. Pages of one repeated word
// are never stamped: they must reach the device as they are. A pure corpus stamps nothing, and its
// generation 1 of slot i is page i of the file, so that a first fill writes exactly the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace farswap::bench {

inline constexpr std::size_t kPageBytes = 4096;

class Corpus {
 public:
  /// Maps the file; its size is a multiple of 4096.
  static Result<std::unique_ptr<Corpus>> Open(const std::string& path, bool pure,
                                              std::uint64_t seed);
  /// One page in eight zero, one in eight of one word, one in four random, the rest about 3:1.
  static std::unique_ptr<Corpus> Synthetic(std::size_t pages, std::uint64_t seed);
  ~Corpus();
  Corpus(const Corpus&) = delete;
  Corpus& operator=(const Corpus&) = delete;

  /// Copies the page that the slot holds in this generation (> 0).
  void Copy(std::uint64_t slot, std::uint32_t generation, std::byte* out) const;
  /// Whether these bytes are the whole page of that generation; generation 0 is the zero page.
  bool Matches(std::uint64_t slot, std::uint32_t generation, const std::byte* page) const;
  /// What the stamp of a page says, in words, to explain a mismatch.
  std::string Describe(const std::byte* page) const;

  std::size_t pages() const { return pages_; }

 private:
  struct Stamp {
    std::uint64_t magic_and_slot;
    std::uint64_t generation;
  };

  Corpus(std::size_t pages, bool pure, std::uint64_t seed);
  void FindRepeated();
  std::size_t IndexOf(std::uint64_t slot, std::uint32_t generation) const;
  static Stamp StampOf(std::uint64_t slot, std::uint32_t generation);

  std::size_t pages_;
  bool pure_;
  std::uint64_t seed_;
  const std::byte* bytes_ = nullptr;
  bool mapped_ = false;
  std::vector<std::byte> own_bytes_;
  std::vector<bool> repeated_;  // the page is one repeated word
};

/// Whether the page is one 64-bit word over and over.
bool IsRepeatedWord(const std::byte* page);
bool IsZero(const std::byte* bytes, std::size_t length);

}  // namespace farswap::bench
