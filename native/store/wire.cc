#include "store/wire.h"

#include <algorithm>

namespace farswap::store {

std::string Bytes(const Id& id) { return {id.begin(), id.end()}; }

bool ReadId(const std::string& bytes, Id* id) {
  if (bytes.size() != kIdBytes) return false;
  std::ranges::copy(bytes, id->begin());
  return true;
}

ObjectRecord BorrowObject(const v1::Object& object) {
  ObjectRecord record;
  record.key = object.key();
  record.version = object.version();
  // Records have no seal: an object that has one counts as invalid.
  record.codec = object.has_seal() ? 0 : static_cast<std::uint32_t>(object.codec());
  record.checksum = object.checksum();
  record.stored_boot_s = object.stored_boot_s();
  record.bytes = object.bytes();
  return record;
}

void CopyObject(const ObjectRecord& record, v1::Object* object) {
  object->set_key(record.key);
  object->set_version(record.version);
  object->set_codec(static_cast<v1::Codec>(record.codec));
  object->set_checksum(record.checksum);
  object->set_stored_boot_s(record.stored_boot_s);
  object->set_bytes(record.bytes.data(), record.bytes.size());
}

}  // namespace farswap::store
