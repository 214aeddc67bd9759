#include "store/volume_table.h"

#include <algorithm>
#include <optional>
#include <random>
#include <utility>

namespace farswap::store {
namespace {

constexpr char kDeviceTag = 'd';
constexpr char kQuotaTag = 'q';
constexpr char kVolumeTag = 'v';

Error Damaged(const std::string& what) { return Error{"the record of " + what + " is damaged"}; }

std::shared_ptr<Volume> MakeVolume(std::uint64_t volume_id, const VolumeRecord& record) {
  auto volume = std::make_shared<Volume>();
  volume->id = volume_id;
  volume->slots = record.slots;
  volume->host_id = record.host_id;
  volume->device = record.device;
  volume->incarnation = record.incarnation;
  volume->SetOwner(record.owner);
  volume->epoch = record.epoch;
  volume->garbage = record.garbage;
  volume->intact = record.intact;
  volume->silent_before_ms =
      std::chrono::milliseconds(std::chrono::minutes(record.silent_minutes)).count();
  return volume;
}

void PutDevice(Rocks* rocks, const std::string& name, const DeviceRecord& record,
               rocksdb::WriteBatch* batch) {
  batch->Put(rocks->volumes, kDeviceTag + name, EncodeDeviceRecord(record));
}

void PutVolume(Rocks* rocks, std::uint64_t volume_id, const VolumeRecord& record,
               rocksdb::WriteBatch* batch) {
  batch->Put(rocks->volumes, kVolumeTag + EncodeVolumeKey(volume_id), EncodeVolumeRecord(record));
}

void PutGarbage(Rocks* rocks, std::uint64_t volume_id, VolumeRecord record,
                rocksdb::WriteBatch* batch) {
  record.garbage = true;
  PutVolume(rocks, volume_id, record, batch);
}

OpenedVolume Refuse(OpenStatus status, std::string message) {
  return {.status = status, .message = std::move(message)};
}

std::string Versions(const OpenRequest& request) {
  if (request.protocol_max == 0) return "an earlier one";
  const std::string least = std::to_string(request.protocol_min);
  return request.protocol_min == request.protocol_max
             ? least
             : least + " to " + std::to_string(request.protocol_max);
}

void AddRetired(const Incarnation& incarnation, DeviceRecord* record) {
  if (record->retired.size() == VolumeTable::kRetiredMax) {
    record->retired.erase(record->retired.begin());
  }
  record->retired.push_back(incarnation);
}

}  // namespace

Outcome VolumeTable::Load() {
  if (Outcome loaded = LoadVolumes(); !loaded.ok()) return loaded;
  return LoadUsage();
}

Outcome VolumeTable::LoadVolumes() {
  const std::unique_ptr<rocksdb::Iterator> it(rocks_->db->NewIterator({}, rocks_->volumes));
  // Devices and quotas sort before volumes ('d' < 'q' < 'v'), so AddLoaded() finds both.
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const std::string_view tail = it->key().ToStringView().substr(1);
    if (it->key()[0] == kDeviceTag) {
      auto record = DecodeDeviceRecord(it->value().ToStringView());
      if (!record) return Damaged("a device");
      devices_[std::string(tail)].record = *std::move(record);
    } else if (it->key()[0] == kQuotaTag) {
      const auto quota = DecodeQuota(it->value().ToStringView());
      if (!quota) return Damaged("a quota");
      devices_[std::string(tail)].quota = quota;
    } else if (it->key()[0] == kVolumeTag) {
      const auto id = DecodeVolumeKey(tail);
      const auto record = DecodeVolumeRecord(it->value().ToStringView());
      if (!id || !record) return Damaged("a volume");
      if (Outcome added = AddLoaded(*id, *record); !added.ok()) return added;
    }
  }
  return it->status().ok() ? Outcome(std::monostate{}) : Outcome(Error{it->status().ToString()});
}

Outcome VolumeTable::AddLoaded(std::uint64_t volume_id, const VolumeRecord& record) {
  const auto device = devices_.find(EncodeDeviceName(record.host_id, record.device));
  if (device == devices_.end()) return Damaged("a volume without a device");
  auto volume = MakeVolume(volume_id, record);
  volume->epoch = device->second.record.epoch;
  volume->heard_ms = clock_->Now().count();
  volume->quota_bytes = QuotaOf(device->second);
  if (!record.garbage) {
    device->second.current = volume;
    device->second.saved = record;
  }
  volumes_.emplace(volume_id, std::move(volume));
  return std::monostate{};
}

Outcome VolumeTable::LoadUsage() {
  std::uint64_t live_bytes = 0;
  const std::unique_ptr<rocksdb::Iterator> it(rocks_->db->NewIterator({}, rocks_->usage));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const auto id = DecodeVolumeKey(it->key().ToStringView());
    const auto usage = DecodeUsage(it->value().ToStringView());
    const auto volume = id ? volumes_.find(*id) : volumes_.end();
    if (!usage || volume == volumes_.end()) return Damaged("usage");
    volume->second->pages = usage->pages;
    volume->second->bytes.Set(static_cast<std::uint64_t>(usage->bytes));
    if (!volume->second->garbage) live_bytes += static_cast<std::uint64_t>(usage->bytes);
  }
  live_bytes_.Set(live_bytes);
  return it->status().ok() ? Outcome(std::monostate{}) : Outcome(Error{it->status().ToString()});
}

std::uint64_t VolumeTable::NewVolumeId() const {
  // Random: after a store was wiped, the id that a host still has must not be another volume's. 63
  // bits, so that id + 1, the end of the volume's range of keys, exists.
  std::random_device source;
  std::shared_lock lock(volumes_mutex_);
  std::uint64_t id = 0;
  while (id == 0 || volumes_.contains(id)) {
    id = (std::uint64_t{source()} << 32 | source()) >> 1;
  }
  return id;
}

void VolumeTable::AddNotIntact(rocksdb::WriteBatch* batch) {
  for (auto& [name, device] : devices_) {
    if (device.current && device.saved.intact) {
      device.current->intact = device.saved.intact = false;
      PutVolume(rocks_, device.current->id, device.saved, batch);
    }
  }
}

// --- Owners -------------------------------------------------------------------------------------

OpenedVolume VolumeTable::Open(const OpenRequest& request) {
  const std::string name = EncodeDeviceName(request.host_id, request.device);
  std::lock_guard lock(open_mutex_);
  const auto found = devices_.find(name);
  Device device = found == devices_.end() ? Device{} : found->second;
  const std::shared_ptr<Volume> current = device.current;
  Claim claim;
  const std::vector<Incarnation>& retired = device.record.retired;
  claim.retired = std::ranges::find(retired, request.incarnation) != retired.end();
  if (current) {
    claim.open = true;
    claim.incarnation = current->incarnation;
    claim.owner = current->owner();
    claim.boot_ms = current->heard_boot_ms;
    claim.live = current->Idle(clock_->Now()) <= config_.owner_lease;
  }
  const OpenDecision decision = DecideOpen(request, claim);
  OpenedVolume opened = Judge(request, device, decision);
  if (claim.live && decision != OpenDecision::kSame) {
    opened.has_other = true;
    opened.other = claim.owner;
    opened.other_idle = current->Idle(clock_->Now());
  }
  if (opened.status != OpenStatus::kOk || request.probe) return opened;
  if (decision == OpenDecision::kSame) {
    opened.volume_id = current->id;
    opened.epoch = device.record.epoch;
    current->SetOwner(request.owner);  // with its current address
  } else if (decision == OpenDecision::kNewNonce) {
    OpenForNewNonce(name, request, &device, &opened);
  } else {
    OpenNew(name, request, &device, &opened);
  }
  if (opened.status == OpenStatus::kOk) {
    if (claim.open && decision != OpenDecision::kSame) NoteSuccession(request, opened, claim.owner);
    device.current->opened = true;
    if (decision != OpenDecision::kSame) {
      device.current->heard_boot_ms = 0;  // another process, maybe on another machine
    }
    Heartbeat opening;
    opening.boot_ms = request.boot_ms;
    device.current->Hear(clock_->Now(), opening);
    devices_[name] = std::move(device);
  }
  return opened;
}

// The answer to the caller, unless the store then fails.
OpenedVolume VolumeTable::Judge(const OpenRequest& request, const Device& device,
                                OpenDecision decision) const {
  switch (decision) {
    case OpenDecision::kProtocol:
      return Refuse(OpenStatus::kProtocol,
                    "the server has version " + std::to_string(kProtocolVersion) +
                        " of the page protocol, the host has " + Versions(request));
    case OpenDecision::kFenced:
      return Refuse(OpenStatus::kFenced, "this incarnation was closed or has a successor");
    case OpenDecision::kPast:
      return Refuse(OpenStatus::kFenced,
                    "this machine was resumed from a snapshot, and the server has later pages of "
                    "it; before a snapshot of memory, swap off");
    case OpenDecision::kAlreadyOpen:
      return Refuse(OpenStatus::kAlreadyOpen, "another host daemon has this volume open");
    case OpenDecision::kSame:
    case OpenDecision::kNewNonce: {
      const Volume& volume = *device.current;
      if (volume.slots != request.slots) {
        return Refuse(OpenStatus::kInvalid, "this incarnation has " + std::to_string(volume.slots) +
                                                " slots, not " + std::to_string(request.slots));
      }
      return {.intact = volume.intact};
    }
    case OpenDecision::kNew: {
      std::shared_lock lock(volumes_mutex_);
      if (volumes_.size() >= kVolumesMax || devices_.size() >= kVolumesMax) {
        return Refuse(OpenStatus::kTooMany, "the server has the maximum number of volumes");
      }
      return {};
    }
  }
  __builtin_unreachable();
}

void VolumeTable::OpenForNewNonce(const std::string& name, const OpenRequest& request,
                                  Device* device, OpenedVolume* opened) {
  Volume* const volume = device->current.get();
  VolumeRecord record = device->saved;
  record.owner = request.owner;
  record.silent_minutes = 0;
  record.epoch = ++device->record.epoch;
  rocksdb::WriteBatch batch;
  PutDevice(rocks_, name, device->record, &batch);
  PutVolume(rocks_, volume->id, record, &batch);
  if (const rocksdb::Status status = rocks_->WriteSynced(&batch); !status.ok()) {
    *opened = Refuse(OpenStatus::kIoError, status.ToString());
    return;
  }
  device->saved = std::move(record);
  volume->SetOwner(request.owner);
  opened->volume_id = volume->id;
  opened->epoch = device->record.epoch;
  const StripesLock stripes(volume, StripesLock::kAll);
  volume->epoch = opened->epoch;
}

void VolumeTable::OpenNew(const std::string& name, const OpenRequest& request, Device* device,
                          OpenedVolume* opened) {
  const std::shared_ptr<Volume> old = device->current;
  const std::uint64_t id = NewVolumeId();
  VolumeRecord record;
  record.epoch = ++device->record.epoch;
  record.slots = request.slots;
  record.incarnation = request.incarnation;
  record.owner = request.owner;
  record.host_id = request.host_id;
  record.device = request.device;
  rocksdb::WriteBatch batch;
  if (old) {
    AddRetired(old->incarnation, &device->record);
    PutGarbage(rocks_, old->id, device->saved, &batch);
  }
  PutDevice(rocks_, name, device->record, &batch);
  PutVolume(rocks_, id, record, &batch);
  if (const rocksdb::Status status = rocks_->WriteSynced(&batch); !status.ok()) {
    *opened = Refuse(OpenStatus::kIoError, status.ToString());
    return;
  }
  if (old) Retire(old, record.epoch);
  device->current = MakeVolume(id, record);
  device->current->quota_bytes = QuotaOf(*device);
  opened->volume_id = id;
  opened->epoch = record.epoch;
  device->saved = std::move(record);
  std::unique_lock lock(volumes_mutex_);
  volumes_.emplace(id, device->current);
}

void VolumeTable::NoteSuccession(const OpenRequest& request, const OpenedVolume& opened,
                                 const Owner& before) {
  const bool displaced = opened.has_other && request.take_over;
  AddEvent({displaced ? OwnerEvent::Kind::kDisplaced : OwnerEvent::Kind::kSucceeded,
            request.host_id, request.device, before, request.owner});
}

void VolumeTable::AddEvent(OwnerEvent event) {
  if (events_.size() == kEventsMax) events_.pop_front();
  events_.push_back(std::move(event));
}

std::vector<OwnerEvent> VolumeTable::TakeEvents() {
  std::lock_guard lock(open_mutex_);
  const std::deque<OwnerEvent> events = std::exchange(events_, {});
  return {events.begin(), events.end()};
}

Result<CallStatus> VolumeTable::Close(std::uint64_t volume_id, std::uint64_t epoch) {
  std::lock_guard lock(open_mutex_);
  const std::shared_ptr<Volume> volume = Find(volume_id);
  if (!volume) return CallStatus::kUnknownVolume;
  const CallStatus usable = volume->Check(epoch);
  if (usable == CallStatus::kUnknownVolume && volume->garbage && volume->epoch == epoch) {
    return CallStatus::kOk;
  }
  if (usable != CallStatus::kOk) return usable;
  const std::string name = EncodeDeviceName(volume->host_id, volume->device);
  const rocksdb::Status status = CloseCurrent(name, &devices_.at(name));
  return status.ok() ? Result<CallStatus>(CallStatus::kOk) : Error{status.ToString()};
}

rocksdb::Status VolumeTable::CloseCurrent(const std::string& name, Device* device) {
  DeviceRecord next = device->record;
  AddRetired(device->current->incarnation, &next);
  rocksdb::WriteBatch batch;
  PutDevice(rocks_, name, next, &batch);
  PutGarbage(rocks_, device->current->id, device->saved, &batch);
  rocksdb::Status status = rocks_->WriteSynced(&batch);
  if (status.ok()) {
    device->record = std::move(next);
    Retire(device->current, device->record.epoch);
    device->current.reset();
  }
  return status;
}

Result<std::shared_ptr<Volume>> VolumeTable::Delete(const std::string& host_id,
                                                    const std::string& device, bool force) {
  const std::string name = EncodeDeviceName(host_id, device);
  const std::string shown = host_id + "/" + device;
  std::lock_guard lock(open_mutex_);
  const auto found = devices_.find(name);
  if (found == devices_.end() || !found->second.current) {
    return Error{shown + " has no volume here"};
  }
  const std::shared_ptr<Volume> volume = found->second.current;
  const auto idle = volume->Idle(clock_->Now());
  if (!force && idle <= config_.owner_lease) {
    const Owner owner = volume->owner();
    return Error{shown + " has a live owner, " + owner.host_name + " (" + owner.address +
                 "), which loses its pages here: stop farswap-host there, or use --force"};
  }
  const rocksdb::Status status = CloseCurrent(name, &found->second);
  return status.ok() ? Result(volume) : Error{status.ToString()};
}

Outcome VolumeTable::SetQuota(const std::string& host_id, const std::string& device,
                              std::optional<std::uint64_t> quota_bytes) {
  const std::string name = EncodeDeviceName(host_id, device);
  std::lock_guard lock(open_mutex_);
  const auto found = devices_.find(name);
  if (found == devices_.end()) {
    return Error{host_id + "/" + device + " was never open here"};
  }
  rocksdb::WriteBatch batch;
  if (quota_bytes) {
    batch.Put(rocks_->volumes, kQuotaTag + name, EncodeQuota(*quota_bytes));
  } else {
    batch.Delete(rocks_->volumes, kQuotaTag + name);
  }
  if (const rocksdb::Status status = rocks_->WriteSynced(&batch); !status.ok()) {
    return Error{status.ToString()};
  }
  Device& changed = found->second;
  changed.quota = quota_bytes;
  if (changed.current) changed.current->quota_bytes = QuotaOf(changed);
  return std::monostate{};
}

CallStatus VolumeTable::Hear(std::uint64_t volume_id, std::uint64_t epoch,
                             const Heartbeat& heartbeat) {
  const std::shared_ptr<Volume> volume = Find(volume_id);
  CallStatus status = volume ? volume->Check(epoch) : CallStatus::kUnknownVolume;
  if (status == CallStatus::kOk && IsPast(heartbeat.boot_ms, volume->heard_boot_ms)) {
    status = CallStatus::kFenced;
  }
  if (status == CallStatus::kOk) {
    volume->Hear(clock_->Now(), heartbeat);
    if (volume->opened) {
      volume->intact = true;  // the owner has read the answer with intact = false
    }
  }
  return status;
}

std::size_t VolumeTable::ExpireSilent() {
  std::lock_guard lock(open_mutex_);
  std::size_t expired = 0;
  for (auto& [name, device] : devices_) {
    if (config_.expire_after.count() == 0 || !device.current ||
        device.current->Silence(clock_->Now()) < config_.expire_after) {
      continue;
    }
    const std::shared_ptr<Volume> volume = device.current;
    if (CloseCurrent(name, &device).ok()) {  // on failure, the next call tries again
      AddEvent({OwnerEvent::Kind::kExpired, volume->host_id, volume->device, volume->owner(), {}});
      ++expired;
    }
  }
  return expired;
}

// Not synced: a power loss only makes a volume expire later, or its host check its pages again.
void VolumeTable::SaveSilence() {
  std::lock_guard lock(open_mutex_);
  rocksdb::WriteBatch batch;
  std::vector<std::pair<Device*, VolumeRecord>> changed;
  for (auto& [name, device] : devices_) {
    if (!device.current) continue;
    VolumeRecord record = device.saved;
    record.intact = device.current->intact;
    record.silent_minutes = static_cast<std::uint32_t>(
        std::chrono::floor<std::chrono::minutes>(device.current->Silence(clock_->Now())).count());
    if (record.intact != device.saved.intact ||
        record.silent_minutes != device.saved.silent_minutes) {
      PutVolume(rocks_, device.current->id, record, &batch);
      changed.emplace_back(&device, std::move(record));
    }
  }
  if (!changed.empty() && rocks_->TryWrite(&batch).ok()) {
    for (auto& [device, record] : changed) device->saved = std::move(record);
  }
}

// --- Volumes ------------------------------------------------------------------------------------

void VolumeTable::Retire(const std::shared_ptr<Volume>& volume, std::uint64_t epoch) {
  const StripesLock stripes(volume.get(), StripesLock::kAll);
  volume->epoch = epoch;
  volume->garbage = true;
  live_bytes_.Release(volume->bytes.value());
}

std::shared_ptr<Volume> VolumeTable::Find(std::uint64_t volume_id) const {
  std::shared_lock lock(volumes_mutex_);
  const auto found = volumes_.find(volume_id);
  return found == volumes_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Volume>> VolumeTable::List() const {
  std::vector<std::shared_ptr<Volume>> all;
  std::shared_lock lock(volumes_mutex_);
  for (const auto& [id, volume] : volumes_) all.push_back(volume);
  return all;
}

std::shared_ptr<Volume> VolumeTable::NextGarbage() const {
  std::shared_lock lock(volumes_mutex_);
  for (const auto& [id, volume] : volumes_) {
    if (volume->garbage) return volume;
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
  return std::monostate{};
}

}  // namespace farswap::store
