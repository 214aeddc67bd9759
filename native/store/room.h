// The room that a store has on its disk, and the ballast that holds a part of it.
//
// RocksDB must not meet a full disk: what other processes write, or a quota, can fill it at any
// moment. Three lines of defence, from the outermost:
//   1. Pages are refused while less than reserve_bytes() are free, and a compaction does not begin
//      without room for its whole output.
//   2. The ballast: preallocated files beside the store, together as large as what RocksDB may
//      still have to write for pages that it has accepted (memtables, their log, the manifest). A
//      write that finds the disk full gives one file up and goes on (spared_files.h), also while
//      the store opens. Pages are refused until the ballast is whole again. Each file holds an
//      inode, too.
//   3. After a write that fails nevertheless, the store is opened for reading only, and for writing
//      again when the disk works (PageStore, DiskGuard).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

namespace farswap::store {

/// Thread-safe.
class Room {
 public:
  /// Of the store in the directory `path`, which is for pages of `capacity_bytes`. Takes
  /// nothing yet, since another server may use it.
  Room(std::string path, std::uint64_t capacity_bytes);

  /// What the next compaction may write, and what any can write at most. The reserve includes the
  /// former: without it, versions of pages that only a compaction deletes could fill the disk.
  struct CompactionNeeds {
    std::uint64_t next_bytes = 0;
    std::uint64_t bytes_max = 0;
    bool is_urgent = false;  // RocksDB will soon slow stores down
  };

  /// Looks at the disk and takes ballast back if there is room. Called every moment.
  void Look(const CompactionNeeds& needs);
  /// Gives a part of the ballast up, and with it the right to accept pages. False: nothing left.
  bool GiveUp();

  /// Empty while pages may be accepted, else the reason why not.
  std::string problem() const;
  bool has_room() const { return has_room_.load(std::memory_order_relaxed); }
  /// Whether what frees space or keeps a few bytes may be written.
  bool has_room_for_records() const { return held_files_.load() >= kBallastFiles / 2; }

  /// Sets room for a compaction's output apart: returns how much. Nothing: there is too little, it
  /// must not begin.
  std::optional<std::uint64_t> ReserveForCompaction(std::uint64_t input_bytes);
  void ReleaseFromCompaction(std::uint64_t bytes);
  /// The last compaction found no room.
  bool compaction_starves() const { return compaction_starves_.load(std::memory_order_relaxed); }
  /// A compaction under way must end: what is left is for pages that are accepted already.
  bool is_low() const { return is_low_.load(std::memory_order_relaxed); }

  /// Of one memtable of pages. Smaller on a small disk, since the ballast is a multiple of it.
  std::uint64_t memtable_bytes() const { return memtable_bytes_; }
  std::uint64_t reserve_bytes() const { return reserve_bytes_.load(); }
  std::uint64_t ballast_bytes_max() const { return kBallastFiles * file_bytes_; }
  std::uint64_t ballast_bytes() const { return held_files_.load() * file_bytes_; }
  std::uint64_t free_bytes() const { return free_bytes_.load(); }

 private:
  static constexpr std::size_t kBallastFiles = 32;

  void Measure();
  std::uint64_t OwnReserve() const;
  std::string FilePath(std::size_t index) const;
  bool Take(std::size_t index);
  std::string FindProblem() const;

  const std::string path_;
  std::uint64_t memtable_bytes_ = 0;
  std::uint64_t file_bytes_ = 0;

  mutable std::mutex mutex_;  // guards what follows
  std::array<bool, kBallastFiles> held_{};
  std::string measure_error_;
  bool is_read_only_ = false;
  std::uint64_t disk_bytes_ = 0;
  std::uint64_t free_files_ = 0;
  std::uint64_t compacting_bytes_ = 0;
  CompactionNeeds needs_;
  std::string problem_;

  std::atomic<std::size_t> held_files_{0};
  std::atomic<std::uint64_t> free_bytes_{0};
  std::atomic<std::uint64_t> reserve_bytes_{0};
  std::atomic<bool> has_room_{false};
  std::atomic<bool> compaction_starves_{false};
  std::atomic<bool> is_low_{false};
};

}  // namespace farswap::store
