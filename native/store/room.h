// Free space on a store's disk, and the ballast that reserves a part of it.
//
// Other processes or a quota can fill the disk at any moment, which RocksDB does not survive. Three
// lines of defence, the outermost first:
//   1. Pages are refused while less than reserve_bytes() are free. A compaction starts only with
//      room for its whole output.
//   2. The ballast: preallocated files beside the store, as large as all data that RocksDB may
//      still have to write for accepted pages (memtables, their log, the manifest). A write that
//      finds the disk full deletes one file and goes on (spared_files.h), also while the store
//      opens. Pages are refused until the ballast is whole again. Each file reserves an inode, too.
//   3. If a write still fails, the store is opened read-only, and writable again when the disk
//      works (PageStore, DiskGuard).
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
  /// For the store in the directory `path` with `capacity_bytes`. Creates no ballast yet, since
  /// another server may use the store.
  Room(std::string path, std::uint64_t capacity_bytes);

  /// Maximum output of the next compaction, and of any. The reserve includes the former: without
  /// it, old versions of pages, which only a compaction deletes, could fill the disk.
  struct CompactionNeeds {
    std::uint64_t next_bytes = 0;
    std::uint64_t bytes_max = 0;
    bool is_urgent = false;  // RocksDB will soon delay stores
  };

  /// Measures the disk, and restores ballast if there is room. Called a few times a second.
  void Look(const CompactionNeeds& needs);
  /// Deletes a part of the ballast; pages are refused from then on. False: none left.
  bool GiveUp();

  /// Why pages are refused; empty if they are accepted.
  std::string problem() const;
  bool has_room() const { return has_room_.load(std::memory_order_relaxed); }
  /// Whether small writes, or writes that free space, are allowed.
  bool has_room_for_records() const { return held_files_.load() >= kBallastFiles / 2; }

  /// Reserves room for a compaction's output and returns its size. nullopt: too little room, so the
  /// compaction must not start.
  std::optional<std::uint64_t> ReserveForCompaction(std::uint64_t input_bytes);
  void ReleaseFromCompaction(std::uint64_t bytes);
  /// Whether the last compaction found no room.
  bool compaction_starves() const { return compaction_starves_.load(std::memory_order_relaxed); }
  /// Whether a running compaction must end, to leave the room for accepted pages.
  bool is_low() const { return is_low_.load(std::memory_order_relaxed); }

  /// Size of one memtable of pages; smaller on a small disk, since the ballast is a multiple of it.
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

  mutable std::mutex mutex_;  // guards the members below
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
