#include "store/put_batch.h"

#include <algorithm>

#include "store/lookup.h"

namespace farswap::store {

void PutBatch::Validate() {
  for (std::size_t i = 0; i < objects_.size(); ++i) {
    const ObjectRecord& object = objects_[i];
    if (!volume_->Holds(object.key) || !IsValidObject(object)) {
      results_[i] = ObjectStatus::kInvalid;
      continue;
    }
    order_[valid_++] = static_cast<std::uint16_t>(i);
    stripes_ |= std::uint32_t{1} << Volume::StripeOf(object.key);
  }
  std::stable_sort(
      order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(valid_),
      [this](std::uint16_t a, std::uint16_t b) { return objects_[a].key < objects_[b].key; });
}

std::size_t PutBatch::GroupEnd(std::size_t begin) const {
  std::size_t end = begin + 1;
  while (end < valid_ && objects_[order_[end]].key == objects_[order_[begin]].key) ++end;
  return end;
}

void PutBatch::Compare(std::uint64_t capacity_bytes) {
  Lookup lookup(rocks_);
  for (std::size_t begin = 0; begin < valid_; begin = GroupEnd(begin)) {
    lookup.Add(volume_->id, objects_[order_[begin]].key);
  }
  lookup.Run(true);
  std::size_t group = 0;
  for (std::size_t begin = 0; begin < valid_; ++group) {
    const std::size_t end = GroupEnd(begin);
    const rocksdb::Status& status = lookup.status(group);
    Kept state;
    state.readable = status.ok() || status.IsNotFound();
    if (status.ok()) {
      state.found = true;
      state.bytes = kRecordKeyBytes + lookup.value(group).size();
      // A damaged record has no readable object: any version replaces it.
      const auto record = DecodeRecord(objects_[order_[begin]].key, lookup.value(group));
      state.parsed = record.has_value();
      state.version = record ? record->version : 0;
    } else if (status.IsCorruption()) {
      // A damaged block of a file. It counted as much as what replaces it, if versions are equal.
      state.readable = state.found = true;
      state.bytes = RecordBytes(objects_[order_[begin]].bytes.size());
    }
    ApplyGroup(begin, end, state, capacity_bytes);
    begin = end;
  }
}

void PutBatch::ApplyGroup(std::size_t begin, std::size_t end, Kept state,
                          std::uint64_t capacity_bytes) {
  const Kept before = state;
  const ObjectRecord* newest = nullptr;
  for (std::size_t i = begin; i < end; ++i) {
    const ObjectRecord& object = objects_[order_[i]];
    ObjectStatus& result = results_[order_[i]];
    const std::uint64_t bytes = RecordBytes(object.bytes.size());
    if (!state.readable) {
      result = ObjectStatus::kIoError;
    } else if (state.parsed && object.version < state.version) {
      result = ObjectStatus::kSuperseded;
    } else if (state.parsed && object.version == state.version && !replace_equal_) {
      result = ObjectStatus::kOk;
    } else if (!Admit(bytes, state.bytes, capacity_bytes)) {
      result = ObjectStatus::kFull;
    } else {
      result = ObjectStatus::kOk;
      accepted_[accepted_count_++] = order_[i];
      newest = &object;
      state.parsed = true;
      state.version = object.version;
      state.bytes = bytes;
    }
  }
  if (!newest) return;
  const RecordKey key = EncodeRecordKey(volume_->id, newest->key);
  const RecordHeader header = EncodeRecordHeader(*newest);
  const rocksdb::Slice key_part = AsSlice(key);
  const std::array<rocksdb::Slice, 2> value_parts = {
      rocksdb::Slice(header.data(), header.size()),
      rocksdb::Slice(newest->bytes.data(), newest->bytes.size())};
  writes_.Put(rocks_->pages, rocksdb::SliceParts(&key_part, 1),
              rocksdb::SliceParts(value_parts.data(), value_parts.size()));
  change_.pages += before.found ? 0 : 1;
  change_.bytes += static_cast<std::int64_t>(state.bytes) - static_cast<std::int64_t>(before.bytes);
}

bool PutBatch::Admit(std::uint64_t new_bytes, std::uint64_t old_bytes,
                     std::uint64_t capacity_bytes) {
  if (new_bytes <= old_bytes) {
    Release(old_bytes - new_bytes);
    return true;
  }
  const std::uint64_t more = new_bytes - old_bytes;
  if (!volume_->bytes.Reserve(more, volume_->quota_bytes)) {
    ++over_quota_;
    return false;
  }
  if (volumes_->live_bytes().Reserve(more, capacity_bytes)) return true;
  volume_->bytes.Release(more);
  return false;
}

void PutBatch::Release(std::uint64_t bytes) {
  volume_->bytes.Release(bytes);
  volumes_->live_bytes().Release(bytes);
}

ObjectCount PutBatch::Write() {
  if (accepted_count_ == 0) return {};
  writes_.Merge(rocks_->usage, EncodeVolumeKey(volume_->id), EncodeUsage(change_));
  const rocksdb::Status status = rocks_->Write(&writes_);
  if (status.ok()) {
    volume_->pages += change_.pages;
    ObjectCount written{.objects = accepted_count_};
    for (std::size_t i = 0; i < accepted_count_; ++i) {
      written.bytes += objects_[accepted_[i]].bytes.size();
    }
    return written;
  }
  Release(static_cast<std::uint64_t>(change_.bytes));  // wraps if negative
  for (std::size_t i = 0; i < accepted_count_; ++i) results_[accepted_[i]] = ObjectStatus::kIoError;
  return {};
}

}  // namespace farswap::store
