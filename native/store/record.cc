#include "store/record.h"

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "tier/bundle.h"
#include "tier/page.h"

namespace farswap::store {
namespace {

static_assert(std::endian::native == std::endian::little, "farswap runs on little-endian machines");

constexpr std::uint8_t kRecordFormat = 1;
constexpr std::uint8_t kStoreFormat = 2;
constexpr char kDamageTag = 'x';

// Whether an object of this codec and length is valid for this key.
bool IsPossible(std::uint64_t key, std::uint32_t codec, std::size_t length) {
  if (key > UINT32_MAX || length == 0) return false;
  if (tier::IsBundleKey(static_cast<tier::ObjectKey>(key))) {
    return codec == static_cast<std::uint32_t>(tier::Codec::kBundle) &&
           length <= tier::kBundleBytesMax;
  }
  switch (codec) {
    case static_cast<std::uint32_t>(tier::Codec::kRaw):
      return length == tier::kPageBytes;
    case static_cast<std::uint32_t>(tier::Codec::kLz4):
    case static_cast<std::uint32_t>(tier::Codec::kZstd):
      return length <= tier::kPageBytes;
    default:
      return false;
  }
}

void PutBigEndian(std::uint64_t value, char* out) {
  const std::uint64_t swapped = __builtin_bswap64(value);
  std::memcpy(out, &swapped, sizeof(swapped));
}

std::uint64_t GetBigEndian(const char* in) {
  std::uint64_t swapped;
  std::memcpy(&swapped, in, sizeof(swapped));
  return __builtin_bswap64(swapped);
}

// Appends fields to a record.
struct Writer {
  std::string value;

  void Add(std::integral auto field) {
    value.append(reinterpret_cast<const char*>(&field), sizeof(field));
  }
  void Add(const Id& id) { value.append(id.begin(), id.end()); }
  void Add(const std::string& name) {
    Add(static_cast<std::uint8_t>(name.size()));
    value.append(name);
  }
  void Add(const std::vector<Id>& ids) {
    Add(static_cast<std::uint8_t>(ids.size()));
    for (const Id& id : ids) Add(id);
  }
};

// Takes fields from the front of a record. `ok` stays false after a field that does not fit.
struct Reader {
  std::string_view rest;
  bool ok = true;

  std::string_view Bytes(std::size_t n) {
    ok = ok && rest.size() >= n;
    if (!ok) return {};
    const std::string_view taken = rest.substr(0, n);
    rest.remove_prefix(n);
    return taken;
  }
  template <std::integral T>
  T Integer() {
    T value{};
    const std::string_view bytes = Bytes(sizeof(T));
    if (ok) std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }

  void Take(bool* field) { *field = Integer<std::uint8_t>() != 0; }
  void Take(std::integral auto* field) {
    *field = Integer<std::remove_pointer_t<decltype(field)>>();
  }
  void Take(Id* id) { std::ranges::copy(Bytes(id->size()), id->begin()); }
  void Take(std::string* name) { *name = Bytes(Integer<std::uint8_t>()); }
  void Take(std::vector<Id>* ids) {
    ids->resize(Integer<std::uint8_t>());
    for (Id& id : *ids) Take(&id);
  }

  bool Complete() const { return ok && rest.empty(); }
};

template <typename T, typename Record>
concept Is = std::same_as<std::remove_const_t<T>, Record>;

// The fields of each record, in their order.
auto Fields(Is<StoreRecord> auto& record) {
  return std::tie(record.uuid, record.boot_id, record.closed);
}
auto Fields(Is<DeviceRecord> auto& record) { return std::tie(record.epoch, record.retired); }
auto Fields(Is<VolumeRecord> auto& record) {
  return std::tie(record.epoch, record.slots, record.garbage, record.intact, record.incarnation,
                  record.owner.nonce, record.owner.takeover_count, record.silent_minutes,
                  record.host_id, record.device, record.owner.host_name, record.owner.address);
}
auto Fields(Is<ScrubPass> auto& pass) {
  return std::tie(pass.running, pass.requested, pass.volume_id, pass.key, pass.elapsed_ms,
                  pass.read_bytes, pass.passes, pass.ended_ago_ms);
}
auto Fields(Is<DamagedShards> auto& shards) { return std::tie(shards.first, shards.last); }
auto Fields(Is<Usage> auto& usage) { return std::tie(usage.pages, usage.bytes); }

template <typename Record>
void Append(const Record& record, Writer* to) {
  std::apply([to](const auto&... fields) { (to->Add(fields), ...); }, Fields(record));
}

template <typename Record>
void Take(Reader* from, Record* record) {
  std::apply([from](auto&... fields) { (from->Take(&fields), ...); }, Fields(*record));
}

template <typename Record>
std::string Encode(const Record& record) {
  Writer writer;
  Append(record, &writer);
  return std::move(writer.value);
}

template <typename Record>
std::optional<Record> Decode(std::string_view value) {
  Reader reader{value};
  Record record;
  Take(&reader, &record);
  return reader.Complete() ? std::optional(std::move(record)) : std::nullopt;
}

}  // namespace

RecordKey EncodeRecordKey(std::uint64_t volume_id, std::uint64_t key) {
  RecordKey record_key;
  PutBigEndian(volume_id, record_key.data());
  PutBigEndian(key, record_key.data() + 8);
  return record_key;
}

std::uint64_t DecodeRecordKey(std::string_view record_key) {
  return record_key.size() == kRecordKeyBytes ? GetBigEndian(record_key.data() + 8) : 0;
}

RecordHeader EncodeRecordHeader(const ObjectRecord& object) {
  RecordHeader header;
  const auto length = static_cast<std::uint16_t>(object.bytes.size());
  header[0] = static_cast<char>(kRecordFormat);
  header[1] = static_cast<char>(object.codec);
  std::memcpy(header.data() + 2, &length, sizeof(length));
  std::memcpy(header.data() + 4, &object.checksum, sizeof(object.checksum));
  std::memcpy(header.data() + 8, &object.version, sizeof(object.version));
  std::memcpy(header.data() + 16, &object.stored_boot_s, sizeof(object.stored_boot_s));
  return header;
}

std::optional<ObjectRecord> DecodeRecord(std::uint64_t key, std::string_view value) {
  Reader reader{value};
  const auto format = reader.Integer<std::uint8_t>();
  ObjectRecord object;
  object.key = key;
  object.codec = reader.Integer<std::uint8_t>();
  const auto length = reader.Integer<std::uint16_t>();
  object.checksum = reader.Integer<std::uint32_t>();
  object.version = reader.Integer<std::uint64_t>();
  object.stored_boot_s = reader.Integer<std::uint32_t>();
  const std::string_view bytes = reader.Bytes(length);
  if (!reader.Complete() || format != kRecordFormat || !IsPossible(key, object.codec, length)) {
    return std::nullopt;
  }
  object.bytes = bytes;
  return object;
}

bool IsValidObject(const ObjectRecord& object) {
  if (!IsPossible(object.key, object.codec, object.bytes.size())) return false;
  const auto codec = static_cast<tier::Codec>(object.codec);
  if (codec == tier::Codec::kBundle && !tier::ParseBundle(std::as_bytes(object.bytes)))
    return false;
  return tier::PageChecksum(static_cast<tier::ObjectKey>(object.key), codec,
                            std::as_bytes(object.bytes)) == object.checksum;
}

std::string EncodeVolumeKey(std::uint64_t volume_id) {
  std::string key(8, '\0');
  PutBigEndian(volume_id, key.data());
  return key;
}

std::optional<std::uint64_t> DecodeVolumeKey(std::string_view key) {
  if (key.size() != 8) return std::nullopt;
  return GetBigEndian(key.data());
}

std::string EncodeStoreRecord(const StoreRecord& record) {
  Writer writer;
  writer.Add(kStoreFormat);
  Append(record, &writer);
  return std::move(writer.value);
}

Result<StoreRecord> DecodeStoreRecord(std::string_view value) {
  Reader reader{value};
  const auto format = reader.Integer<std::uint8_t>();
  if (reader.ok && format != kStoreFormat) {
    return Error{"its format is " + std::to_string(format) + ", this release reads format " +
                 std::to_string(kStoreFormat) +
                 ": give store.path a new directory, or delete this one, and its pages with it"};
  }
  StoreRecord record;
  Take(&reader, &record);
  if (!reader.Complete()) return Error{"its first record is damaged"};
  return record;
}

std::string EncodeDeviceRecord(const DeviceRecord& record) { return Encode(record); }
std::optional<DeviceRecord> DecodeDeviceRecord(std::string_view value) {
  return Decode<DeviceRecord>(value);
}

std::string EncodeDeviceName(const std::string& host_id, const std::string& device) {
  Writer writer;
  writer.Add(host_id);
  return writer.value + device;
}

std::string EncodeQuota(std::uint64_t bytes) {
  Writer writer;
  writer.Add(bytes);
  return std::move(writer.value);
}

std::optional<std::uint64_t> DecodeQuota(std::string_view value) {
  Reader reader{value};
  const auto bytes = reader.Integer<std::uint64_t>();
  return reader.Complete() ? std::optional(bytes) : std::nullopt;
}

std::string EncodeVolumeRecord(const VolumeRecord& record) { return Encode(record); }
std::optional<VolumeRecord> DecodeVolumeRecord(std::string_view value) {
  return Decode<VolumeRecord>(value);
}

std::string EncodeScrubPass(const ScrubPass& pass) { return Encode(pass); }
std::optional<ScrubPass> DecodeScrubPass(std::string_view value) {
  return Decode<ScrubPass>(value);
}

std::string EncodeDamageKey(std::uint64_t volume_id, std::uint64_t report) {
  const RecordKey ids = EncodeRecordKey(volume_id, report);
  return kDamageTag + std::string(ids.begin(), ids.end());
}

std::string EncodeDamagedShards(const DamagedShards& shards) { return Encode(shards); }

std::optional<std::pair<std::uint64_t, DamagedShards>> DecodeDamagedShards(std::string_view key,
                                                                           std::string_view value) {
  auto shards = Decode<DamagedShards>(value);
  if (!shards || key.size() != 1 + kRecordKeyBytes || key[0] != kDamageTag) return std::nullopt;
  shards->report = DecodeRecordKey(key.substr(1));
  return std::pair(GetBigEndian(key.data() + 1), *shards);
}

std::string EncodeUsage(const Usage& usage) { return Encode(usage); }
std::optional<Usage> DecodeUsage(std::string_view value) { return Decode<Usage>(value); }

}  // namespace farswap::store
