#include "store/volume_table.h"

#include <algorithm>
#include <random>
#include <utility>

namespace farswap::store {
namespace {

constexpr char kDeviceTag = 'd';
constexpr char kVolumeTag = 'v';

Error Damaged(const std::string& what) { return Error{"a record of " + what + " does not parse"}; }

VolumeRecord RecordOf(const Volume& volume, std::uint64_t epoch, bool garbage) {
  return {epoch, volume.slots, garbage, volume.incarnation, volume.host_id, volume.device};
}

std::shared_ptr<Volume> MakeVolume(std::uint64_t volume_id, const VolumeRecord& record) {
  auto volume = std::make_shared<Volume>();
  volume->id = volume_id;
  volume->slots = record.slots;
  volume->host_id = record.host_id;
  volume->device = record.device;
  volume->incarnation = record.incarnation;
  volume->epoch = record.epoch;
  volume->garbage = record.garbage;
  return volume;
}

OpenedVolume Refuse(OpenStatus status, std::string message) {
  OpenedVolume refused;
  refused.status = status;
  refused.message = std::move(message);
  return refused;
}

void AddRetired(const Incarnation& incarnation, DeviceRecord* record) {
  if (record->retired.size() == VolumeTable::kRetiredMax) {
    record->retired.erase(record->retired.begin());
  }
  record->retired.push_back(incarnation);
}

}  // namespace

Outcome VolumeTable::Load() {
  if (Outcome loaded = LoadVolumes(); !loaded.ok()) {
    return loaded;
  }
  return LoadUsage();
}

Outcome VolumeTable::LoadVolumes() {
  const std::unique_ptr<rocksdb::Iterator> it(rocks_->db->NewIterator({}, rocks_->volumes));
  // Devices sort before volumes ('d' < 'v'), so AddLoaded() finds the device.
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const std::string_view tail = it->key().ToStringView().substr(1);
    if (it->key()[0] == kDeviceTag) {
      auto record = DecodeDeviceRecord(it->value().ToStringView());
      if (!record) {
        return Damaged("a device");
      }
      devices_[std::string(tail)].record = *std::move(record);
    } else if (it->key()[0] == kVolumeTag) {
      const auto id = DecodeVolumeKey(tail);
      const auto record = DecodeVolumeRecord(it->value().ToStringView());
      if (!id || !record) {
        return Damaged("a volume");
      }
      if (Outcome added = AddLoaded(*id, *record); !added.ok()) {
        return added;
      }
    }
  }
  return it->status().ok() ? Outcome(Unit{}) : Outcome(Error{it->status().ToString()});
}

Outcome VolumeTable::AddLoaded(std::uint64_t volume_id, const VolumeRecord& record) {
  const auto device = devices_.find(EncodeDeviceName(record.host_id, record.device));
  if (device == devices_.end()) {
    return Damaged("a device is missing: one of its volumes");
  }
  auto volume = MakeVolume(volume_id, record);
  volume->epoch = device->second.record.epoch;
  if (!record.garbage) {
    device->second.current = volume;
  }
  volumes_.emplace(volume_id, std::move(volume));
  return Unit{};
}

Outcome VolumeTable::LoadUsage() {
  const std::unique_ptr<rocksdb::Iterator> it(rocks_->db->NewIterator({}, rocks_->usage));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const auto id = DecodeVolumeKey(it->key().ToStringView());
    const auto usage = DecodeUsage(it->value().ToStringView());
    const auto volume = id ? volumes_.find(*id) : volumes_.end();
    if (!usage || volume == volumes_.end()) {
      return Damaged("usage");
    }
    volume->second->pages = usage->pages;
    volume->second->bytes = usage->bytes;
    if (!volume->second->garbage) {
      live_bytes_ += static_cast<std::uint64_t>(usage->bytes);
    }
  }
  return it->status().ok() ? Outcome(Unit{}) : Outcome(Error{it->status().ToString()});
}

std::uint64_t VolumeTable::NewVolumeId() const {
  // Random, not counted: after a store was wiped, the id that a host still holds must not be
  // another host's. 63 bits, so that id + 1 exists: it ends the volume's range of keys.
  std::random_device source;
  std::shared_lock lock(volumes_mutex_);
  std::uint64_t id = 0;
  while (id == 0 || volumes_.contains(id)) {
    id = (std::uint64_t{source()} << 32 | source()) >> 1;
  }
  return id;
}

OpenedVolume VolumeTable::Open(const std::string& host_id, const std::string& device_name,
                               const Incarnation& incarnation, std::uint64_t slots) {
  const std::string name = EncodeDeviceName(host_id, device_name);
  std::lock_guard lock(open_mutex_);
  auto found = devices_.find(name);
  if (found == devices_.end()) {
    if (devices_.size() >= kVolumesMax) {
      return Refuse(OpenStatus::kTooMany, "the server knows as many devices as it can");
    }
    found = devices_.emplace(name, Device{}).first;
  }
  Device& device = found->second;
  if (std::ranges::find(device.record.retired, incarnation) != device.record.retired.end()) {
    return Refuse(OpenStatus::kRetired, "this incarnation was closed or has a successor");
  }
  if (!device.current || device.current->incarnation != incarnation) {
    return OpenNew(name, &device, {0, slots, false, incarnation, host_id, device_name});
  }
  Volume& volume = *device.current;
  if (volume.slots != slots) {
    return Refuse(OpenStatus::kInvalid, "this incarnation has " + std::to_string(volume.slots) +
                                            " slots, not " + std::to_string(slots));
  }
  DeviceRecord next = device.record;
  ++next.epoch;
  rocksdb::WriteBatch batch;
  batch.Put(rocks_->volumes, kDeviceTag + name, EncodeDeviceRecord(next));
  const rocksdb::Status status = rocks_->WriteSynced(&batch);
  if (!status.ok()) {
    return Refuse(OpenStatus::kIoError, status.ToString());
  }
  device.record = std::move(next);
  const StripesLock stripes(&volume, StripesLock::kAll);
  volume.epoch = device.record.epoch;
  return {OpenStatus::kOk, {}, volume.id, device.record.epoch};
}

OpenedVolume VolumeTable::OpenNew(const std::string& name, Device* device, VolumeRecord record) {
  {
    std::shared_lock lock(volumes_mutex_);
    if (volumes_.size() >= kVolumesMax) {
      return Refuse(OpenStatus::kTooMany, "the server has as many volumes as it can");
    }
  }
  const std::uint64_t id = NewVolumeId();
  const std::shared_ptr<Volume> old = device->current;
  DeviceRecord next = device->record;
  record.epoch = ++next.epoch;
  rocksdb::WriteBatch batch;
  if (old) {
    AddRetired(old->incarnation, &next);
    batch.Put(rocks_->volumes, kVolumeTag + EncodeVolumeKey(old->id),
              EncodeVolumeRecord(RecordOf(*old, next.epoch, true)));
  }
  batch.Put(rocks_->volumes, kDeviceTag + name, EncodeDeviceRecord(next));
  batch.Put(rocks_->volumes, kVolumeTag + EncodeVolumeKey(id), EncodeVolumeRecord(record));
  const rocksdb::Status status = rocks_->WriteSynced(&batch);
  if (!status.ok()) {
    return Refuse(OpenStatus::kIoError, status.ToString());
  }
  device->record = std::move(next);
  device->current = MakeVolume(id, record);
  if (old) {
    Retire(old, record.epoch);
  }
  std::unique_lock lock(volumes_mutex_);
  volumes_.emplace(id, device->current);
  return {OpenStatus::kOk, {}, id, record.epoch};
}

Result<StreamStatus> VolumeTable::Close(std::uint64_t volume_id, std::uint64_t epoch) {
  std::lock_guard lock(open_mutex_);
  const std::shared_ptr<Volume> volume = Find(volume_id);
  if (!volume) {
    return StreamStatus::kUnknownVolume;
  }
  const StreamStatus usable = volume->Check(epoch);
  if (usable == StreamStatus::kUnknownVolume && volume->garbage && volume->epoch == epoch) {
    return StreamStatus::kOk;
  }
  if (usable != StreamStatus::kOk) {
    return usable;
  }
  const std::string name = EncodeDeviceName(volume->host_id, volume->device);
  Device& device = devices_.at(name);
  DeviceRecord next = device.record;
  AddRetired(volume->incarnation, &next);
  rocksdb::WriteBatch batch;
  batch.Put(rocks_->volumes, kDeviceTag + name, EncodeDeviceRecord(next));
  batch.Put(rocks_->volumes, kVolumeTag + EncodeVolumeKey(volume_id),
            EncodeVolumeRecord(RecordOf(*volume, epoch, true)));
  const rocksdb::Status status = rocks_->WriteSynced(&batch);
  if (!status.ok()) {
    return Error{status.ToString()};
  }
  device.record = std::move(next);
  device.current.reset();
  Retire(volume, epoch);
  return StreamStatus::kOk;
}

void VolumeTable::Retire(const std::shared_ptr<Volume>& volume, std::uint64_t epoch) {
  const StripesLock stripes(volume.get(), StripesLock::kAll);
  volume->epoch = epoch;
  volume->garbage = true;
  Release(static_cast<std::uint64_t>(volume->bytes.load()));
}

std::shared_ptr<Volume> VolumeTable::Find(std::uint64_t volume_id) const {
  std::shared_lock lock(volumes_mutex_);
  const auto found = volumes_.find(volume_id);
  return found == volumes_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Volume>> VolumeTable::List() const {
  std::vector<std::shared_ptr<Volume>> all;
  std::shared_lock lock(volumes_mutex_);
  all.reserve(volumes_.size());
  for (const auto& [id, volume] : volumes_) {
    all.push_back(volume);
  }
  return all;
}

std::shared_ptr<Volume> VolumeTable::NextGarbage() const {
  std::shared_lock lock(volumes_mutex_);
  for (const auto& [id, volume] : volumes_) {
    if (volume->garbage) {
      return volume;
    }
  }
  return nullptr;
}

Outcome VolumeTable::Forget(const Volume& volume) {
  const std::string id_key = EncodeVolumeKey(volume.id);
  rocksdb::WriteBatch batch;
  batch.Delete(rocks_->volumes, kVolumeTag + id_key);
  batch.Delete(rocks_->usage, id_key);
  const rocksdb::Status status = rocks_->WriteSynced(&batch);
  if (!status.ok()) {
    return Error{status.ToString()};
  }
  std::unique_lock lock(volumes_mutex_);
  volumes_.erase(volume.id);
  return Unit{};
}

bool VolumeTable::Reserve(std::uint64_t bytes, std::uint64_t limit) {
  std::uint64_t current = live_bytes_.load(std::memory_order_relaxed);
  do {
    if (current + bytes > limit) {
      return false;
    }
  } while (!live_bytes_.compare_exchange_weak(current, current + bytes));
  return true;
}

}  // namespace farswap::store
