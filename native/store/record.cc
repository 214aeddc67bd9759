#include "store/record.h"

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstring>

#include "tier/bundle.h"
#include "tier/page.h"

namespace farswap::store {
namespace {

static_assert(std::endian::native == std::endian::little, "farswap runs on little-endian machines");

constexpr std::uint8_t kRecordFormat = 1;
constexpr std::uint8_t kStoreFormat = 2;

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

template <std::integral T>
void Append(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void AppendId(const Id& id, std::string* out) { out->append(id.begin(), id.end()); }

void AppendName(std::string_view name, std::string* out) {
  Append(static_cast<std::uint8_t>(name.size()), out);
  out->append(name);
}

// Reads fields from the front of a record. `ok` stays false after a field that does not fit.
struct Reader {
  std::string_view rest;
  bool ok = true;

  std::string_view Bytes(std::size_t n) {
    ok = ok && rest.size() >= n;
    if (!ok) {
      return {};
    }
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

  Id TakeId() {
    Id id{};
    const std::string_view bytes = Bytes(kIdBytes);
    std::copy(bytes.begin(), bytes.end(), id.begin());
    return id;
  }

  std::string Name() { return std::string(Bytes(Integer<std::uint8_t>())); }

  bool Complete() const { return ok && rest.empty(); }
};

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
  std::string value;
  Append(kStoreFormat, &value);
  AppendId(record.uuid, &value);
  AppendName(record.boot_id, &value);
  Append(static_cast<std::uint8_t>(record.closed), &value);
  return value;
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
  record.uuid = reader.TakeId();
  record.boot_id = reader.Name();
  record.closed = reader.Integer<std::uint8_t>() != 0;
  if (!reader.Complete()) {
    return Error{"its first record is damaged"};
  }
  return record;
}

std::string EncodeDeviceRecord(const DeviceRecord& record) {
  std::string value;
  Append(record.epoch, &value);
  Append(static_cast<std::uint8_t>(record.retired.size()), &value);
  for (const Incarnation& incarnation : record.retired) AppendId(incarnation, &value);
  return value;
}

std::optional<DeviceRecord> DecodeDeviceRecord(std::string_view value) {
  Reader reader{value};
  DeviceRecord record;
  record.epoch = reader.Integer<std::uint64_t>();
  const auto count = reader.Integer<std::uint8_t>();
  for (std::size_t i = 0; i < count && reader.ok; ++i) record.retired.push_back(reader.TakeId());
  return reader.Complete() ? std::optional(std::move(record)) : std::nullopt;
}

std::string EncodeDeviceName(std::string_view host_id, std::string_view device) {
  std::string name;
  AppendName(host_id, &name);
  name.append(device);
  return name;
}

bool DecodeDeviceName(std::string_view name, std::string* host_id, std::string* device) {
  Reader reader{name};
  *host_id = reader.Name();
  *device = std::string(reader.rest);
  return reader.ok && !host_id->empty() && !device->empty();
}

std::string EncodeVolumeRecord(const VolumeRecord& record) {
  std::string value;
  Append(record.epoch, &value);
  Append(record.slots, &value);
  Append(static_cast<std::uint8_t>(record.garbage), &value);
  Append(static_cast<std::uint8_t>(record.intact), &value);
  AppendId(record.incarnation, &value);
  AppendId(record.owner.nonce, &value);
  Append(record.owner.takeover_count, &value);
  Append(record.silent_minutes, &value);
  for (const std::string& name :
       {record.host_id, record.device, record.owner.host_name, record.owner.address}) {
    AppendName(name, &value);
  }
  return value;
}

std::optional<VolumeRecord> DecodeVolumeRecord(std::string_view value) {
  Reader reader{value};
  VolumeRecord record;
  record.epoch = reader.Integer<std::uint64_t>();
  record.slots = reader.Integer<std::uint64_t>();
  record.garbage = reader.Integer<std::uint8_t>() != 0;
  record.intact = reader.Integer<std::uint8_t>() != 0;
  record.incarnation = reader.TakeId();
  record.owner.nonce = reader.TakeId();
  record.owner.takeover_count = reader.Integer<std::uint32_t>();
  record.silent_minutes = reader.Integer<std::uint32_t>();
  record.host_id = reader.Name();
  record.device = reader.Name();
  record.owner.host_name = reader.Name();
  record.owner.address = reader.Name();
  return reader.Complete() ? std::optional(std::move(record)) : std::nullopt;
}

std::string EncodeUsage(const Usage& usage) {
  std::string value;
  Append(usage.pages, &value);
  Append(usage.bytes, &value);
  return value;
}

std::optional<Usage> DecodeUsage(std::string_view value) {
  Reader reader{value};
  Usage usage;
  usage.pages = reader.Integer<std::int64_t>();
  usage.bytes = reader.Integer<std::int64_t>();
  return reader.Complete() ? std::optional(usage) : std::nullopt;
}

}  // namespace farswap::store
