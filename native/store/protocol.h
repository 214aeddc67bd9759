// The page protocol's limits and answers, without its transport.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "tier/page.h"

namespace farswap::store {

inline constexpr std::uint32_t kProtocol = 2;  // the only version that a server speaks
inline constexpr std::size_t kBatchPagesMax = 256;
inline constexpr std::size_t kFetchSlotsMax = 64;
inline constexpr std::size_t kDiscardItemsMax = 4096;
inline constexpr std::uint64_t kVolumeSlotsMax = tier::kSlotsMax;

/// Numbers of StreamStatus in proto/farswap/v1/page_store.proto.
enum class StreamStatus : std::uint8_t { kOk = 1, kFenced = 2, kUnknownVolume = 3, kInvalid = 4 };

/// Numbers of PageStatus in proto/farswap/v1/page_store.proto.
enum class PageStatus : std::uint8_t {
  kOk = 1,
  kNotFound = 2,
  kSuperseded = 3,
  kFull = 4,
  kInvalid = 5,
  kIoError = 6,
  kCorrupt = 7,
};

struct DiscardItem {
  std::uint64_t slot;
  std::uint64_t version;
};

enum class OpenStatus : std::uint8_t { kOk, kInvalid, kRetired, kTooMany, kIoError };

struct OpenedVolume {
  OpenStatus status = OpenStatus::kOk;
  std::string message;  // for the host's operator, unless kOk
  std::uint64_t volume_id = 0;
  std::uint64_t epoch = 0;
};

}  // namespace farswap::store
