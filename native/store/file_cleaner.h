// Rids table files of blocks that RocksDB refuses to read, in place: a compaction that meets such a
// block fails, and is repeated without end, at any level.
//
// For each damaged block: its shards are reported (Damage), an empty block takes its place, and the
// usage of its volumes is corrected by the records that this hides. What else the block had comes
// back as a compaction would have it: an older version, or an object that was discarded. Versions
// decide about both. Reads find the objects missing instead of damaged; hosts treat both alike.
//
// Interleavings. The block is emptied with the stripes of its records locked, so a Put or Discard
// sees it before or after. Before: a Put counts the unreadable record as its own (PutBatch), and
// this class then finds the record readable. A crash before the block is emptied leaves a report
// too many; one after, a usage that is too high by these records.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "store/counters.h"
#include "store/damage.h"
#include "store/damaged_files.h"
#include "store/rocks.h"
#include "store/volume_table.h"

namespace farswap::store {

class FileCleaner {
 public:
  FileCleaner(Rocks* rocks, VolumeTable* volumes, Damage* damage, Counters* counters)
      : rocks_(rocks), volumes_(volumes), damage_(damage), counters_(counters) {}

  /// Reads the whole file of pages and empties its damaged blocks. kIncomplete: `stopping`.
  rocksdb::Status Clean(const std::string& path, const std::atomic<bool>& stopping);

 private:
  class Table;
  struct Part;  // of a damaged block: of one volume

  std::vector<Part> PartsOf(const Table& table) const;
  rocksdb::Status Report(const Table& table);
  rocksdb::Status Empty(const Table& table);
  void Count(std::vector<Part>* parts);

  Rocks* const rocks_;
  VolumeTable* const volumes_;
  Damage* const damage_;
  Counters* const counters_;
};

}  // namespace farswap::store
