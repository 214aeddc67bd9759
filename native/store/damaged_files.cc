#include "store/damaged_files.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>

#include "base/file_descriptor.h"

namespace farswap::store {
namespace {

// After each block: u8 compression, u32 checksum.
constexpr std::size_t kTrailerBytes = 5;
constexpr std::uint64_t kBlockBytesMax = std::uint64_t{1} << 20;
constexpr std::size_t kSequenceBytes = 8;  // after each key, with its type
constexpr char kTypeValue = 1;

template <typename T>
bool TakeNumber(std::string_view text, std::string_view label, T* number) {
  const std::size_t at = text.rfind(label);
  if (at == std::string_view::npos) return false;
  const std::string_view digits = text.substr(at + label.size());
  return std::from_chars(digits.data(), digits.data() + digits.size(), *number).ec == std::errc{};
}

// The checksum of table.checksum = kXXH3 (rocks.cc) over a block without compression.
std::uint32_t ChecksumOf(std::string_view block) {
  constexpr std::uint32_t kCompressionFactor = 0x6b9083d9;
  const auto compression = static_cast<std::uint8_t>(block.back());
  block.remove_suffix(1);
  return static_cast<std::uint32_t>(XXH3_64bits(block.data(), block.size())) ^
         compression * kCompressionFactor;
}

// Reads the block, and its trailer.
rocksdb::Status ReadBlock(const DamagedBlock& block, int file, std::string* bytes) {
  bytes->assign(block.size + kTrailerBytes, '\0');
  const ssize_t read =
      ::pread(file, bytes->data(), bytes->size(), static_cast<off_t>(block.offset));
  return read == static_cast<ssize_t>(bytes->size())
             ? rocksdb::Status::OK()
             : rocksdb::Status::IOError(block.path, "failed to read a damaged block");
}

// A length of up to 28 bits, 7 a byte.
std::optional<std::size_t> TakeLength(std::string_view* rest) {
  std::size_t length = 0;
  for (int shift = 0; shift < 28 && !rest->empty(); shift += 7) {
    const auto byte = static_cast<std::uint8_t>(rest->front());
    rest->remove_prefix(1);
    length |= static_cast<std::size_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return length;
  }
  return std::nullopt;
}

// Writes a block of `size` bytes, and its trailer. A block without entries would crash RocksDB's
// Get. An entry: 3 lengths (shared with the key before, rest of the key, value), the key, u64
// sequence << 8 | type, and the value; here up to the one restart point and the number of these.
bool FillBlock(std::string_view key, std::uint64_t size, std::string* bytes) {
  constexpr std::size_t kRestartBytes = 8;
  constexpr std::size_t kLengthsBytes = 5;
  const std::size_t internal_key_bytes = key.size() + kSequenceBytes;
  const std::size_t fixed = kLengthsBytes + internal_key_bytes + kRestartBytes;
  if (size < fixed) return false;
  const std::size_t value_bytes = size - fixed;
  bytes->assign(size + kTrailerBytes, '\0');
  char* const out = bytes->data();
  out[1] = static_cast<char>(internal_key_bytes);
  out[2] = static_cast<char>((value_bytes & 0x7f) | 0x80);  // in three bytes, whatever its value
  out[3] = static_cast<char>((value_bytes >> 7 & 0x7f) | 0x80);
  out[4] = static_cast<char>(value_bytes >> 14);
  std::memcpy(out + kLengthsBytes, key.data(), key.size());
  out[size - 4] = 1;  // restart points, the first at 0
  const std::uint32_t checksum = ChecksumOf(std::string_view(*bytes).substr(0, size + 1));
  std::memcpy(out + size + 1, &checksum, sizeof(checksum));
  return true;
}

}  // namespace

// Of RocksDB 7: "block checksum mismatch: stored = 1, computed = 2, type = 4  in PATH offset 3 size
// 4". There is no other way to learn where the block is.
std::optional<DamagedBlock> DamagedBlockOf(const rocksdb::Status& status) {
  if (!status.IsCorruption()) return std::nullopt;
  const std::string message = status.ToString();
  const std::string_view text = message;
  DamagedBlock block;
  const std::size_t begin = text.find("  in ");
  const std::size_t end = text.rfind(" offset ");
  if (text.find("block checksum mismatch") == std::string_view::npos ||
      begin == std::string_view::npos || end == std::string_view::npos || end < begin + 5 ||
      !TakeNumber(text.substr(0, begin), "computed = ", &block.checksum) ||
      !TakeNumber(text, " offset ", &block.offset) || !TakeNumber(text, " size ", &block.size) ||
      block.size == 0 || block.size > kBlockBytesMax) {
    return std::nullopt;
  }
  block.path = text.substr(begin + 5, end - begin - 5);
  return block;
}

std::vector<BlockRecord> RecordsOf(const DamagedBlock& block) {
  std::vector<BlockRecord> records;
  const FileDescriptor file(::open(block.path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string bytes;
  if (!file.open() || !ReadBlock(block, file.get(), &bytes).ok()) return records;
  std::string_view rest = std::string_view(bytes).substr(0, block.size);
  std::string key;  // and its sequence
  while (true) {
    const auto shared = TakeLength(&rest);
    const auto unshared = TakeLength(&rest);
    const auto value_bytes = TakeLength(&rest);
    if (!shared || !unshared || !value_bytes || *shared > key.size() ||
        *shared + *unshared <= kSequenceBytes || *unshared + *value_bytes > rest.size()) {
      return records;  // restart points, or damage
    }
    key.resize(*shared);
    key += rest.substr(0, *unshared);
    rest.remove_prefix(*unshared + *value_bytes);
    if (key[key.size() - kSequenceBytes] != kTypeValue) continue;
    records.push_back({key.substr(0, key.size() - kSequenceBytes), *value_bytes});
  }
}

rocksdb::Status EmptyBlock(const DamagedBlock& block, std::string_view filler) {
  using rocksdb::Status;
  const FileDescriptor file(::open(block.path.c_str(), O_RDWR | O_CLOEXEC));
  if (!file.open()) return Status::IOError(block.path, std::strerror(errno));
  std::string bytes;
  if (Status status = ReadBlock(block, file.get(), &bytes); !status.ok()) return status;
  std::uint32_t stored = 0;
  std::memcpy(&stored, bytes.data() + block.size + 1, sizeof(stored));
  const std::uint32_t computed = ChecksumOf(std::string_view(bytes).substr(0, block.size + 1));
  if (computed != block.checksum || computed == stored) {
    return Status::TryAgain(block.path, "a damaged block has changed");
  }
  if (!FillBlock(filler, block.size, &bytes)) return Status::Corruption("a block is too small");
  const ssize_t written =
      ::pwrite(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(block.offset));
  return written == static_cast<ssize_t>(bytes.size())
             ? Status::OK()
             : Status::IOError(block.path, std::strerror(errno));
}

}  // namespace farswap::store
