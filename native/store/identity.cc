#include "store/identity.h"

#include <algorithm>
#include <fstream>
#include <random>

namespace farswap::store {
namespace {

constexpr char kStoreTag = 'f';
constexpr char kDrainTag = 's';
constexpr char kRemovedTag = 'r';

Id NewId() {
  std::random_device source;
  Id id;
  std::ranges::generate(id, [&] { return static_cast<std::uint8_t>(source()); });
  return id;
}

rocksdb::Status Read(Rocks* rocks, char tag, std::string* value) {
  return rocks->db->Get({}, rocks->volumes, rocksdb::Slice(&tag, 1), value);
}

std::string EncodeIds(const std::vector<Id>& ids) {
  std::string value;
  for (const Id& id : ids) value.append(id.begin(), id.end());
  return value;
}

std::vector<Id> DecodeIds(const std::string& value) {
  std::vector<Id> ids(value.size() / kIdBytes);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    std::copy_n(value.data() + i * kIdBytes, kIdBytes, ids[i].begin());
  }
  return ids;
}

// Empty if unreadable, which equals no other boot.
std::string ReadBootId(const std::string& path) {
  std::ifstream file(path);
  std::string id;
  file >> id;
  return id.substr(0, kNameBytesMax);
}

}  // namespace

Result<Identity> Identity::Load(Rocks* rocks, const std::string& boot_id_path) {
  Identity identity;
  identity.run_id_ = NewId();
  const std::string boot_id = ReadBootId(boot_id_path);
  std::string value;
  const rocksdb::Status drain = Read(rocks, kDrainTag, &value);
  if (!drain.ok() && !drain.IsNotFound()) return Error{drain.ToString()};
  identity.draining_ = drain.ok();
  const rocksdb::Status removed = Read(rocks, kRemovedTag, &value);
  if (!removed.ok() && !removed.IsNotFound()) return Error{removed.ToString()};
  if (removed.ok()) identity.removed_ = DecodeIds(value);
  const rocksdb::Status status = Read(rocks, kStoreTag, &value);
  if (status.IsNotFound()) {
    identity.record_.uuid = NewId();
  } else if (!status.ok()) {
    return Error{status.ToString()};
  } else {
    Result<StoreRecord> record = DecodeStoreRecord(value);
    if (!record.ok()) return record.error();
    identity.record_ = std::move(record.value());
    const bool same_boot = !boot_id.empty() && boot_id == identity.record_.boot_id;
    identity.intact_ = identity.record_.closed || same_boot;
  }
  identity.record_.boot_id = boot_id;
  return identity;
}

void Identity::Add(Rocks* rocks, rocksdb::WriteBatch* batch, bool closed) {
  record_.closed = closed;
  batch->Put(rocks->volumes, rocksdb::Slice(&kStoreTag, 1), EncodeStoreRecord(record_));
  const rocksdb::Slice drain(&kDrainTag, 1);
  if (draining_) {
    batch->Put(rocks->volumes, drain, {});
  } else {
    batch->Delete(rocks->volumes, drain);
  }
  batch->Put(rocks->volumes, rocksdb::Slice(&kRemovedTag, 1), EncodeIds(removed_));
}

}  // namespace farswap::store
