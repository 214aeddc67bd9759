#include "loadgen/corpus.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "loadgen/random.h"

namespace farswap::bench {
namespace {

// "fsload" in the upper 24 bits would not fit with 40 bits of slot, so: a constant, and the slot.
constexpr std::uint64_t kStampMagic = 0xfa5a17ULL << 40;
constexpr std::uint64_t kSlotMask = (std::uint64_t{1} << 40) - 1;
constexpr std::size_t kPageWords = kPageBytes / sizeof(std::uint64_t);

void FillSynthetic(std::uint64_t index, std::uint64_t seed, std::byte* out) {
  Random random(Mix(seed) ^ Mix(index));
  const std::uint64_t kind = index % 8;
  const std::uint64_t word = kind == 0 ? 0 : random.Next();
  for (std::size_t i = 0; i < kPageWords; ++i) {
    std::uint64_t value = word;
    if (kind == 2 || kind == 3 || (kind > 3 && i % 4 == 0)) {
      value = random.Next();
    }
    std::memcpy(out + i * sizeof(value), &value, sizeof(value));
  }
}

}  // namespace

bool IsZero(const std::byte* bytes, std::size_t length) {
  return length == 0 ||
         (bytes[0] == std::byte{0} && std::memcmp(bytes, bytes + 1, length - 1) == 0);
}

bool IsRepeatedWord(const std::byte* page) {
  constexpr std::size_t kWord = sizeof(std::uint64_t);
  return std::memcmp(page, page + kWord, kPageBytes - kWord) == 0;
}

Corpus::Corpus(std::size_t pages, bool pure, std::uint64_t seed)
    : pages_(pages), pure_(pure), seed_(seed) {}

Corpus::~Corpus() {
  if (mapped_) {
    munmap(const_cast<std::byte*>(bytes_), pages_ * kPageBytes);
  }
}

Result<std::unique_ptr<Corpus>> Corpus::Open(const std::string& path, bool pure,
                                             std::uint64_t seed) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return Error{path + ": " + std::strerror(errno)};
  }
  struct stat status {};
  if (fstat(fd, &status) != 0 || status.st_size < static_cast<off_t>(kPageBytes) ||
      status.st_size % static_cast<off_t>(kPageBytes) != 0) {
    close(fd);
    return Error{path + ": not a whole number of 4096-byte pages"};
  }
  const auto bytes = static_cast<std::size_t>(status.st_size);
  void* address = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
  const int mmap_errno = errno;
  close(fd);
  if (address == MAP_FAILED) {
    return Error{path + ": " + std::strerror(mmap_errno)};
  }
  std::unique_ptr<Corpus> corpus(new Corpus(bytes / kPageBytes, pure, seed));
  corpus->bytes_ = static_cast<const std::byte*>(address);
  corpus->mapped_ = true;
  corpus->FindRepeated();
  return corpus;
}

std::unique_ptr<Corpus> Corpus::Synthetic(std::size_t pages, std::uint64_t seed) {
  std::unique_ptr<Corpus> corpus(new Corpus(pages, false, seed));
  corpus->own_bytes_.resize(pages * kPageBytes);
  for (std::size_t i = 0; i < pages; ++i) {
    FillSynthetic(i, seed, corpus->own_bytes_.data() + i * kPageBytes);
  }
  corpus->bytes_ = corpus->own_bytes_.data();
  corpus->FindRepeated();
  return corpus;
}

void Corpus::FindRepeated() {
  repeated_.resize(pages_);
  for (std::size_t i = 0; i < pages_; ++i) {
    repeated_[i] = IsRepeatedWord(bytes_ + i * kPageBytes);
  }
}

std::size_t Corpus::IndexOf(std::uint64_t slot, std::uint32_t generation) const {
  if (pure_ && generation == 1) {
    return static_cast<std::size_t>(slot % pages_);
  }
  return static_cast<std::size_t>(Mix(seed_ ^ Mix(slot) ^ Mix(std::uint64_t{generation} << 32)) %
                                  pages_);
}

Corpus::Stamp Corpus::StampOf(std::uint64_t slot, std::uint32_t generation) {
  return Stamp{kStampMagic | (slot & kSlotMask), generation};
}

void Corpus::Copy(std::uint64_t slot, std::uint32_t generation, std::byte* out) const {
  const std::size_t index = IndexOf(slot, generation);
  std::memcpy(out, bytes_ + index * kPageBytes, kPageBytes);
  if (!pure_ && !repeated_[index]) {
    const Stamp stamp = StampOf(slot, generation);
    std::memcpy(out, &stamp, sizeof(stamp));
  }
}

bool Corpus::Matches(std::uint64_t slot, std::uint32_t generation, const std::byte* page) const {
  if (generation == 0) {
    return IsZero(page, kPageBytes);
  }
  const std::size_t index = IndexOf(slot, generation);
  const std::byte* expected = bytes_ + index * kPageBytes;
  std::size_t skip = 0;
  if (!pure_ && !repeated_[index]) {
    const Stamp stamp = StampOf(slot, generation);
    if (std::memcmp(page, &stamp, sizeof(stamp)) != 0) {
      return false;
    }
    skip = sizeof(stamp);
  }
  return std::memcmp(page + skip, expected + skip, kPageBytes - skip) == 0;
}

std::string Corpus::Describe(const std::byte* page) const {
  if (IsZero(page, kPageBytes)) {
    return "zeros";
  }
  Stamp stamp{};
  std::memcpy(&stamp, page, sizeof(stamp));
  if ((stamp.magic_and_slot & ~kSlotMask) != kStampMagic) {
    return IsRepeatedWord(page) ? "one repeated word" : "no stamp";
  }
  const std::uint64_t slot = stamp.magic_and_slot & kSlotMask;
  const auto generation = static_cast<std::uint32_t>(stamp.generation);
  return "stamp of slot " + std::to_string(slot) + " generation " + std::to_string(generation) +
         (Matches(slot, generation, page) ? ", whole" : ", with other bytes behind it");
}

}  // namespace farswap::bench
