// State of one Put call, or of a batch of a copy: valid objects, existing records, and records to
// write.
//
// PageStore::Impl::PutObjects() takes these steps in this order: Validate() without any lock, then,
// with stripes() locked and the epoch checked, Compare() and Write().
#pragma once

#include <rocksdb/write_batch.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "store/protocol.h"
#include "store/record.h"
#include "store/rocks.h"
#include "store/volume.h"
#include "store/volume_table.h"

namespace farswap::store {

class PutBatch {
 public:
  PutBatch(Rocks* rocks, VolumeTable* volumes, Volume* volume,
           std::span<const ObjectRecord> objects, std::span<ObjectStatus> results,
           bool replace_equal)
      : rocks_(rocks),
        volumes_(volumes),
        volume_(volume),
        objects_(objects),
        results_(results),
        replace_equal_(replace_equal) {}

  void Validate();
  std::uint32_t stripes() const { return stripes_; }
  /// Reads existing records, decides about each object, and reserves the bytes they add.
  void Compare(std::uint64_t capacity_bytes);
  /// Objects that the volume's quota refused; their result is kFull.
  std::uint64_t over_quota() const { return over_quota_; }
  /// Writes the objects that Compare() accepted, and their usage; returns how many.
  ObjectCount Write();

 private:
  // State of a key while the objects of the batch are applied.
  struct Kept {
    bool readable = true;
    bool found = false;   // counted in Usage
    bool parsed = false;  // `version` is valid
    std::uint64_t version = 0;
    std::uint64_t bytes = 0;
  };

  std::size_t GroupEnd(std::size_t begin) const;
  void ApplyGroup(std::size_t begin, std::size_t end, Kept state, std::uint64_t capacity_bytes);
  bool Admit(std::uint64_t new_bytes, std::uint64_t old_bytes, std::uint64_t capacity_bytes);
  void Release(std::uint64_t bytes);

  Rocks* rocks_;
  VolumeTable* volumes_;
  Volume* volume_;
  std::span<const ObjectRecord> objects_;
  std::span<ObjectStatus> results_;
  const bool replace_equal_;                           // write an equal version again
  std::array<std::uint16_t, kBatchObjectsMax> order_;  // valid ones, by key, then in their order
  std::size_t valid_ = 0;
  std::uint32_t stripes_ = 0;
  std::array<std::uint16_t, kBatchObjectsMax> accepted_;  // those that change their key's record
  std::size_t accepted_count_ = 0;
  std::uint64_t over_quota_ = 0;
  rocksdb::WriteBatch writes_;
  Usage change_;
};

}  // namespace farswap::store
