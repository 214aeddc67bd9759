// Identity of a store, whether it has all pages that it acknowledged, whether it is draining, and
// which other stores an operator removed.
//
// Pages are written without fsync, so a crash of the machine may lose some. The store has the id of
// the boot in which it was last open, and whether it was then closed, with all data synced. After
// another boot without a close, pages may be missing.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "store/record.h"
#include "store/rocks.h"

namespace farswap::store {

class Identity {
 public:
  /// Reads the store's record, or makes one for a new store. Writes nothing.
  static Result<Identity> Load(Rocks* rocks, const std::string& boot_id_path);

  const Id& uuid() const { return record_.uuid; }
  /// Id of this run.
  const Id& run_id() const { return run_id_; }
  /// False: pages may be missing, and the volumes are not yet marked so.
  bool intact() const { return intact_; }
  void NoteMarked() { intact_ = true; }
  /// Whether hosts are to move their shards to other servers. The caller writes a change by Add().
  bool draining() const { return draining_; }
  void SetDraining(bool draining) { draining_ = draining; }
  /// Other stores that never come back, the oldest removal first. The caller writes a change.
  const std::vector<Id>& removed() const { return removed_; }
  void SetRemoved(std::vector<Id> removed) { removed_ = std::move(removed); }

  /// Adds the records of the store to the batch. `closed`: all pages are synced.
  void Add(Rocks* rocks, rocksdb::WriteBatch* batch, bool closed);

 private:
  StoreRecord record_;
  Id run_id_{};
  bool intact_ = true;
  bool draining_ = false;
  std::vector<Id> removed_;
};

}  // namespace farswap::store
