// The page protocol's limits and answers, without its transport.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "store/record.h"
#include "tier/page.h"

namespace farswap::store {

inline constexpr std::uint32_t kProtocolVersion = 2;  // the only version that servers support
inline constexpr std::size_t kBatchObjectsMax = 256;
inline constexpr std::size_t kGetKeysMax = 64;
inline constexpr std::size_t kDiscardItemsMax = 4096;
inline constexpr std::size_t kListedEntriesMax = 1024;
inline constexpr std::size_t kShardObjectsMax =
    tier::kShardSlots + tier::kShardSlots / tier::kBundleSlots;
inline constexpr std::size_t kCopiesMax = 4;  // at one target
inline constexpr std::uint64_t kVolumeSlotsMax = tier::kSlotsMax;
inline constexpr std::uint64_t kNoQuota = UINT64_MAX;

/// Numbers of CallStatus in proto/farswap/v1/page_store.proto.
enum class CallStatus : std::uint8_t {
  kOk = 1,
  kFenced = 2,
  kUnknownVolume = 3,
  kInvalid = 4,
  kRetryAfter = 5,
  kStaleGeneration = 7,
};

/// Numbers of ObjectStatus in proto/farswap/v1/page_store.proto.
enum class ObjectStatus : std::uint8_t {
  kOk = 1,
  kNotFound = 2,
  kSuperseded = 3,
  kFull = 4,
  kInvalid = 5,
  kIoError = 6,
  kCorrupt = 7,
};

struct DiscardItem {
  std::uint64_t key;
  std::uint64_t version;
};

struct ShardEntry {
  std::uint64_t key;
  std::uint64_t version;  // 0: its record is damaged
  std::uint64_t bytes;
};

struct ShardList {
  std::vector<ShardEntry> entries;
  std::uint64_t next_cursor = 0;  // 0: that was all
};

/// A copy of a shard from another server. A newer generation ends copies of older ones.
struct ShardCopying {
  std::uint64_t shard = 0;
  std::uint32_t generation = 0;
  bool replace_equal = false;  // also write what the store has in the same version
};

struct ObjectCount {
  std::uint64_t objects = 0;
  std::uint64_t bytes = 0;  // of the objects, without keys and headers
};

/// Numbers of ServerState in proto/farswap/v1/page_store.proto.
enum class ServerState : std::uint8_t {
  kActive = 1,
  kFull = 2,
  kDiskFull = 3,
  kDraining = 4,
  kStopping = 5,
  kQuotaReached = 6,
};

/// The first four have the numbers of OpenStatus in proto/farswap/v1/page_store.proto; the others
/// end the call with a status of gRPC.
enum class OpenStatus : std::uint8_t {
  kOk = 1,
  kAlreadyOpen = 2,
  kFenced = 3,
  kProtocol = 4,
  kInvalid,
  kTooMany,
  kIoError,
};

struct OpenRequest {
  std::string host_id;
  std::string device;
  Incarnation incarnation{};
  Owner owner;  // the caller
  std::uint64_t slots = 0;
  std::uint32_t protocol_min = 0;
  std::uint32_t protocol_max = 0;
  std::uint64_t boot_ms = 0;
  bool probe = false;
  bool take_over = false;
};

/// A server that a host cannot reach, and still counts on.
struct AwayServer {
  Id uuid{};
  std::string address;
  std::uint32_t shards = 0;
  std::uint32_t last_shards = 0;  // of these, without a current replica elsewhere
};

/// How the host places the volume's shards.
struct VolumePlacement {
  std::uint32_t replicas = 0;      // wanted of each
  std::uint32_t debt = 0;          // shards with fewer current ones
  std::uint32_t lost = 0;          // shards whose last current replica was on a store that is gone
  std::uint32_t copies = 0;        // replicas being made
  std::uint32_t here = 0;          // replicas on this server
  std::uint64_t fetch_p99_us = 0;  // of recent fetches from this server; 0: too few
  std::vector<AwayServer> away{};
};

/// A heartbeat of a volume's owner.
struct Heartbeat {
  std::uint64_t boot_ms = 0;  // of the host's boot clock
  std::optional<VolumePlacement> placement{};
};

struct OpenedVolume {
  OpenStatus status = OpenStatus::kOk;
  std::string message{};  // for the host's operator; empty if kOk
  std::uint64_t volume_id = 0;
  std::uint64_t epoch = 0;
  bool intact = true;
  bool has_other = false;  // another host is the live owner, or was until now:
  Owner other{};
  std::chrono::milliseconds other_idle{};
};

}  // namespace farswap::store
