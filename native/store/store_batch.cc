#include "store/store_batch.h"

#include <algorithm>

#include "store/lookup.h"

namespace farswap::store {

void StoreBatch::Validate() {
  for (std::size_t i = 0; i < pages_.size(); ++i) {
    const PageRecord& page = pages_[i];
    if (!volume_->Holds(page.slot) || !IsValidPage(page)) {
      results_[i] = PageStatus::kInvalid;
      continue;
    }
    order_[valid_++] = static_cast<std::uint16_t>(i);
    stripes_ |= std::uint32_t{1} << Volume::StripeOf(page.slot);
  }
  std::stable_sort(
      order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(valid_),
      [this](std::uint16_t a, std::uint16_t b) { return pages_[a].slot < pages_[b].slot; });
}

std::size_t StoreBatch::GroupEnd(std::size_t begin) const {
  std::size_t end = begin + 1;
  while (end < valid_ && pages_[order_[end]].slot == pages_[order_[begin]].slot) {
    ++end;
  }
  return end;
}

void StoreBatch::Compare(std::uint64_t capacity_bytes) {
  Lookup lookup(rocks_);
  for (std::size_t begin = 0; begin < valid_; begin = GroupEnd(begin)) {
    lookup.Add(volume_->id, pages_[order_[begin]].slot);
  }
  lookup.Run(true);
  std::size_t group = 0;
  for (std::size_t begin = 0; begin < valid_; ++group) {
    const std::size_t end = GroupEnd(begin);
    const rocksdb::Status& status = lookup.status(group);
    SlotState state;
    state.readable = status.ok() || status.IsNotFound();
    if (status.ok()) {
      state.found = true;
      state.bytes = kPageKeyBytes + lookup.value(group).size();
      // A record that does not parse holds nothing that a host could want: any version replaces it.
      const auto record = DecodeRecord(pages_[order_[begin]].slot, lookup.value(group));
      state.parsed = record.has_value();
      state.version = record ? record->version : 0;
    }
    ApplyGroup(begin, end, state, capacity_bytes);
    begin = end;
  }
}

void StoreBatch::ApplyGroup(std::size_t begin, std::size_t end, SlotState state,
                            std::uint64_t capacity_bytes) {
  const SlotState before = state;
  const PageRecord* newest = nullptr;
  for (std::size_t i = begin; i < end; ++i) {
    const PageRecord& page = pages_[order_[i]];
    PageStatus& result = results_[order_[i]];
    const std::uint64_t bytes = RecordBytes(page.bytes.size());
    if (!state.readable) {
      result = PageStatus::kIoError;
    } else if (state.parsed && page.version < state.version) {
      result = PageStatus::kSuperseded;
    } else if (state.parsed && page.version == state.version) {
      result = PageStatus::kOk;
    } else if (!Admit(bytes, state.bytes, capacity_bytes)) {
      result = PageStatus::kFull;
    } else {
      result = PageStatus::kOk;
      accepted_[accepted_count_++] = order_[i];
      newest = &page;
      state.parsed = true;
      state.version = page.version;
      state.bytes = bytes;
    }
  }
  if (!newest) {
    return;
  }
  const PageKey key = EncodePageKey(volume_->id, newest->slot);
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

bool StoreBatch::Admit(std::uint64_t new_bytes, std::uint64_t old_bytes,
                       std::uint64_t capacity_bytes) {
  if (new_bytes > old_bytes) {
    return volumes_->Reserve(new_bytes - old_bytes, capacity_bytes);
  }
  volumes_->Release(old_bytes - new_bytes);
  return true;
}

void StoreBatch::Write() {
  if (accepted_count_ == 0) {
    return;
  }
  writes_.Merge(rocks_->usage, EncodeVolumeKey(volume_->id), EncodeUsage(change_));
  const rocksdb::Status status = rocks_->Write(&writes_);
  if (status.ok()) {
    volume_->pages += change_.pages;
    volume_->bytes += change_.bytes;
    return;
  }
  volumes_->Release(static_cast<std::uint64_t>(change_.bytes));  // wraps: a negative one is added
  for (std::size_t i = 0; i < accepted_count_; ++i) {
    results_[accepted_[i]] = PageStatus::kIoError;
  }
}

}  // namespace farswap::store
