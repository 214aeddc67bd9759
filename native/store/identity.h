// Which store this is, and whether the pages that it acknowledged are all there.
//
// Pages are written without fsync: the machine's end may take back what the kernel had not written
// yet. The store keeps the id of the boot in which it was last open, and whether it was closed,
// with everything synced. Another boot without that means that pages may be missing.
#pragma once

#include <string>

#include "base/result.h"
#include "store/record.h"
#include "store/rocks.h"

namespace farswap::store {

class Identity {
 public:
  /// Reads the store's record, or makes one for a new store. Nothing is written yet.
  static Result<Identity> Load(Rocks* rocks, const std::string& boot_id_path);

  const Id& uuid() const { return record_.uuid; }
  /// Of this run.
  const Id& run_id() const { return run_id_; }
  /// False: pages may be missing, and the volumes are not marked so yet.
  bool intact() const { return intact_; }
  void NoteMarked() { intact_ = true; }

  /// Adds the record of a store that is open in this boot.
  void AddOpen(Rocks* rocks, rocksdb::WriteBatch* batch);
  /// Adds the record of a store all of whose pages are synced.
  void AddClosed(Rocks* rocks, rocksdb::WriteBatch* batch);

 private:
  void Add(Rocks* rocks, rocksdb::WriteBatch* batch) const;

  StoreRecord record_;
  Id run_id_{};
  bool intact_ = true;
};

}  // namespace farswap::store
