// Reads up to 256 objects from RocksDB at once, into per-thread buffers: no allocation per batch.
#pragma once

#include <rocksdb/db.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "store/protocol.h"
#include "store/rocks.h"

namespace farswap::store {

/// One at a time per thread. Usage: Add() each key, Run(), then read the results by index.
class Lookup {
 public:
  explicit Lookup(Rocks* rocks) : rocks_(rocks), buffers_(ThreadBuffers()) {}
  ~Lookup() {
    for (std::size_t i = 0; i < count_; ++i) buffers_.values[i].Reset();
  }
  Lookup(const Lookup&) = delete;
  Lookup& operator=(const Lookup&) = delete;

  void Add(std::uint64_t volume_id, std::uint64_t key) {
    buffers_.keys[count_] = EncodeRecordKey(volume_id, key);
    buffers_.slices[count_] = AsSlice(buffers_.keys[count_]);
    ++count_;
  }

  /// `ascending`: the keys were added in ascending order, without duplicates.
  void Run(bool ascending) {
    if (count_ == 1) {
      buffers_.statuses[0] =
          rocks_->db->Get({}, rocks_->pages, buffers_.slices[0], &buffers_.values[0]);
    } else if (count_ > 1) {
      rocks_->db->MultiGet({}, rocks_->pages, count_, buffers_.slices.data(),
                           buffers_.values.data(), buffers_.statuses.data(), ascending);
    }
  }

  const rocksdb::Status& status(std::size_t i) const { return buffers_.statuses[i]; }
  std::string_view value(std::size_t i) const { return buffers_.values[i].ToStringView(); }

 private:
  struct Buffers {
    std::array<RecordKey, kBatchObjectsMax> keys;
    std::array<rocksdb::Slice, kBatchObjectsMax> slices;
    std::array<rocksdb::PinnableSlice, kBatchObjectsMax> values;
    std::array<rocksdb::Status, kBatchObjectsMax> statuses;
  };
  static Buffers& ThreadBuffers() {
    thread_local Buffers buffers;
    return buffers;
  }

  Rocks* rocks_;
  Buffers& buffers_;
  std::size_t count_ = 0;
};

}  // namespace farswap::store
