// The format of all records in RocksDB. No other file knows it.
//
// Column family "default" has the objects, as received:
//   key    volume id (u64 big endian), the object's key (u64 big endian): a volume is one range
//          of keys
//   value  header of 20 bytes, little endian, then the object's bytes
//            0  u8   format, 1
//            1  u8   codec: 1 raw, 2 LZ4 block, 3 zstd frame, 4 bundle
//            2  u16  length of the object's bytes, 1..4096; of a bundle up to 49220
//            4  u32  checksum: tier::PageChecksum(key, codec, bytes)
//            8  u64  version
//           16  u32  stored_boot_s: when the host's kernel wrote the page
// Column family "volumes" has records that must never go back (written with fsync):
//   "f"                                  -> u8 format of the whole store, 2, 16 bytes uuid,
//                                           u8 length and id of the boot that last wrote to it,
//                                           u8 whether it was closed since
//   "s"                                  -> empty; exists while the server is draining
//   "r"                                  -> 16 bytes uuid of each other store that was removed
//   "d" u8 host length, host, device     -> u64 epoch, u8 n, n retired incarnations of 16 bytes,
//                                           oldest first
//   "p"                                  -> the scrub's last pass, see ScrubPass
//   "q" u8 host length, host, device     -> u64 quota in bytes, all ones: none; without a record
//                                           the configured default holds
//   "v" volume id (u64 big endian)       -> u64 epoch, u64 slots, u8 garbage, u8 intact,
//                                           16 bytes incarnation, 16 bytes nonce of the owner,
//                                           u32 its takeover_count, u32 minutes of silence, and
//                                           u8 length and bytes of host, device, the owner's
//                                           machine's name and address
//   "x" volume id, report (u64 big endian)
//                                        -> u64 first and u64 last of the shards that lack objects
// Without fsync: the pass, damaged shards, and a volume's silence and `intact`.
// Column family "usage" counts pages and bytes of each volume. Each batch of page writes merges its
// differences in the same atomic write, so the counts are exact after any crash, and a start reads
// one small record per volume instead of all its pages:
//   volume id (u64 big endian)           -> i64 pages, i64 bytes (keys and headers included)
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace farswap::store {

inline constexpr std::size_t kRecordKeyBytes = 16;
inline constexpr std::size_t kRecordHeaderBytes = 20;
inline constexpr std::size_t kIdBytes = 16;
inline constexpr std::size_t kNameBytesMax = 128;

/// 16 random bytes.
using Id = std::array<std::uint8_t, kIdBytes>;
using Incarnation = Id;
using RecordKey = std::array<char, kRecordKeyBytes>;
using RecordHeader = std::array<char, kRecordHeaderBytes>;

/// An object of the protocol: as it is on the wire and in the store. `bytes` is borrowed.
struct ObjectRecord {
  std::uint64_t key = 0;
  std::uint64_t version = 0;
  std::uint32_t codec = 0;
  std::uint32_t checksum = 0;
  std::uint32_t stored_boot_s = 0;
  std::span<const char> bytes;
};

/// The share of an object of `bytes` bytes in used_bytes.
constexpr std::uint64_t RecordBytes(std::size_t bytes) {
  return kRecordKeyBytes + kRecordHeaderBytes + bytes;
}

RecordKey EncodeRecordKey(std::uint64_t volume_id, std::uint64_t key);
RecordHeader EncodeRecordHeader(const ObjectRecord& object);
/// The object's key.
std::uint64_t DecodeRecordKey(std::string_view record_key);
/// nullopt if `value` is not a record of this format. The result borrows from `value`.
std::optional<ObjectRecord> DecodeRecord(std::uint64_t key, std::string_view value);

/// Checks codec, key, length, checksum and a bundle's header. Volume::Holds() checks that the
/// device has its slots.
bool IsValidObject(const ObjectRecord& object);

/// The first key of a volume's range; that of `volume_id + 1` is its end.
std::string EncodeVolumeKey(std::uint64_t volume_id);
std::optional<std::uint64_t> DecodeVolumeKey(std::string_view key);

struct StoreRecord {
  Id uuid{};
  std::string boot_id;
  bool closed = false;
};
std::string EncodeStoreRecord(const StoreRecord& record);
/// An error names the format if it is another one.
Result<StoreRecord> DecodeStoreRecord(std::string_view value);

struct DeviceRecord {
  std::uint64_t epoch = 0;
  std::vector<Incarnation> retired;  // newest last; at most 255
};
std::string EncodeDeviceRecord(const DeviceRecord& record);
std::optional<DeviceRecord> DecodeDeviceRecord(std::string_view value);
std::string EncodeDeviceName(const std::string& host_id, const std::string& device);

std::string EncodeQuota(std::uint64_t bytes);
std::optional<std::uint64_t> DecodeQuota(std::string_view value);

/// A run of a host daemon that has opened a volume.
struct Owner {
  Id nonce{};
  std::uint32_t takeover_count = 0;
  std::string host_name;
  std::string address;
};

struct VolumeRecord {
  std::uint64_t epoch = 0;
  std::uint64_t slots = 0;
  bool garbage = false;
  // False: acknowledged pages may be missing, and the owner was not yet informed.
  bool intact = true;
  Incarnation incarnation{};
  Owner owner;
  std::uint32_t silent_minutes = 0;
  std::string host_id;
  std::string device;
};
std::string EncodeVolumeRecord(const VolumeRecord& record);
std::optional<VolumeRecord> DecodeVolumeRecord(std::string_view value);

/// A pass of the scrub over all records, in order of their keys.
struct ScrubPass {
  bool running = false;
  bool requested = false;       // by an operator, who waits for it
  std::uint64_t volume_id = 0;  // where it goes on
  std::uint64_t key = 0;
  std::uint64_t elapsed_ms = 0;  // since it began, while servers ran
  std::uint64_t read_bytes = 0;
  std::uint64_t passes = 0;        // that have ended
  std::uint64_t ended_ago_ms = 0;  // the last one, while servers ran
};
std::string EncodeScrubPass(const ScrubPass& pass);
std::optional<ScrubPass> DecodeScrubPass(std::string_view value);

/// Shards of a volume that may lack objects, since records of them were damaged.
struct DamagedShards {
  std::uint64_t report = 0;  // its number
  std::uint64_t first = 0;
  std::uint64_t last = 0;
};
std::string EncodeDamageKey(std::uint64_t volume_id, std::uint64_t report);
std::string EncodeDamagedShards(const DamagedShards& shards);
/// nullopt if it is no such record.
std::optional<std::pair<std::uint64_t, DamagedShards>> DecodeDamagedShards(std::string_view key,
                                                                           std::string_view value);

/// Also used for differences of usages, which "usage" merges.
struct Usage {
  std::int64_t pages = 0;
  std::int64_t bytes = 0;
};
std::string EncodeUsage(const Usage& usage);
std::optional<Usage> DecodeUsage(std::string_view value);

}  // namespace farswap::store
