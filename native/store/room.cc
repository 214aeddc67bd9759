#include "store/room.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <limits>
#include <system_error>
#include <utility>

namespace farswap::store {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kBlockBytes = 4096;
constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

constexpr std::uint64_t kMemtableBytesMax = 64 * kMiB;
// Maximum share of a memtable in the disk and in the configured capacity.
constexpr std::uint64_t kMemtablesPerDisk = 64;
constexpr std::uint64_t kMemtablesPerCapacity = 16;
// Number of memtables of pages, all of which may have to be flushed.
constexpr std::uint64_t kMemtables = 4;
// For memtables of other column families, current batches, manifest, options.
constexpr std::uint64_t kRecordsBytes = 12 * kMiB;
// Maximum share of a small disk for each of ballast and reserve.
constexpr std::uint64_t kDiskShareMax = 8;
// Left free for other programs when ballast is restored.
constexpr std::uint64_t kSlackBytes = kMiB;
constexpr std::uint64_t kFreeFilesMin = 64;

std::string Reason(int error) { return std::system_category().message(error); }

std::string InMiB(std::uint64_t bytes) { return std::to_string(bytes / kMiB) + " MiB"; }

std::uint64_t Times(std::uint64_t blocks, std::uint64_t block_bytes) {
  return blocks > kUnlimited / block_bytes ? kUnlimited : blocks * block_bytes;
}

}  // namespace

Room::Room(std::string path, std::uint64_t capacity_bytes) : path_(std::move(path)) {
  mkdir(path_.c_str(), 0700);  // other errors show when RocksDB opens the store
  Measure();
  const std::uint64_t memtable =
      std::min(disk_bytes_ / kMemtablesPerDisk, capacity_bytes / kMemtablesPerCapacity);
  memtable_bytes_ = std::clamp(std::bit_floor(memtable), kMiB, kMemtableBytesMax);
  file_bytes_ = (OwnReserve() / kBallastFiles / kBlockBytes + 1) * kBlockBytes;
  for (std::size_t i = 0; i < kBallastFiles; ++i) {
    struct stat found {};
    held_[i] = stat(FilePath(i).c_str(), &found) == 0 &&
               static_cast<std::uint64_t>(found.st_size) == file_bytes_;
    held_files_ += held_[i] ? 1 : 0;
  }
}

std::string Room::FilePath(std::size_t index) const {
  return path_ + "/ballast/" + std::to_string(index);
}

void Room::Measure() {
  struct statvfs disk {};
  if (statvfs(path_.c_str(), &disk) != 0) {
    measure_error_ = Reason(errno);
    return;
  }
  measure_error_.clear();
  is_read_only_ = (disk.f_flag & ST_RDONLY) != 0;
  // A file system without limits reports 0 blocks, or 0 files.
  const bool limited = disk.f_blocks > 0;
  disk_bytes_ = limited ? Times(disk.f_blocks, disk.f_frsize) : kUnlimited;
  free_bytes_ = limited ? Times(disk.f_bavail, disk.f_frsize) : kUnlimited;
  free_files_ = disk.f_files > 0 ? disk.f_favail : kUnlimited;
}

std::uint64_t Room::OwnReserve() const {
  return std::min(kMemtables * memtable_bytes_ + kRecordsBytes, disk_bytes_ / kDiskShareMax);
}

void Room::Look(const CompactionNeeds& needs) {
  const std::lock_guard lock(mutex_);
  needs_ = needs;
  Measure();
  for (std::size_t i = 0; i < kBallastFiles && !is_read_only_; ++i) {
    if (held_[i]) continue;
    if (free_bytes_ < file_bytes_ + kSlackBytes || !Take(i)) break;
    held_[i] = true;
    ++held_files_;
    Measure();
  }
  reserve_bytes_ = OwnReserve() + needs_.next_bytes;
  problem_ = FindProblem();
  has_room_ = problem_.empty();
  is_low_ = free_bytes_ < OwnReserve() / 4;
}

std::string Room::FindProblem() const {
  // Hysteresis: after a refusal, pages are accepted only with some more room.
  const std::uint64_t needed = reserve_bytes_ + (has_room_ ? 0 : OwnReserve() / 4);
  const std::uint64_t files_needed = kFreeFilesMin + (has_room_ ? 0 : 4);
  if (!measure_error_.empty()) return "failed to measure the disk: " + measure_error_;
  if (is_read_only_) return "the file system is read-only";
  if (free_files_ < files_needed) {
    return std::to_string(free_files_) + " inodes are free, " + std::to_string(files_needed) +
           " are needed";
  }
  if (held_files_ < kBallastFiles) {
    return InMiB(free_bytes_) + " are free, " +
           InMiB(needed + ballast_bytes_max() - ballast_bytes()) + " are needed";
  }
  if (free_bytes_ < needed) {
    return InMiB(free_bytes_) + " are free, " + InMiB(needed) + " are needed";
  }
  return compaction_starves_ && needs_.is_urgent
             ? InMiB(free_bytes_) + " are free, too little to compact the store's files"
             : "";
}

bool Room::Take(std::size_t index) {
  mkdir((path_ + "/ballast").c_str(), 0700);  // errors show in open()
  const std::string path = FilePath(index);
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return false;
  const bool taken = posix_fallocate(file, 0, static_cast<off_t>(file_bytes_)) == 0;
  close(file);
  if (!taken) unlink(path.c_str());
  return taken;
}

bool Room::GiveUp() {
  const std::lock_guard lock(mutex_);
  has_room_ = false;
  // Includes files of a run with other sizes.
  for (std::size_t i = kBallastFiles; i-- > 0;) {
    const bool was_there = unlink(FilePath(i).c_str()) == 0;
    if (!was_there && errno != ENOENT) return false;
    held_files_ -= std::exchange(held_[i], false) ? 1 : 0;
    if (was_there) return true;
  }
  return false;
}

std::string Room::problem() const {
  const std::lock_guard lock(mutex_);
  return problem_.empty() && !has_room_ ? "the disk is full" : problem_;
}

std::optional<std::uint64_t> Room::ReserveForCompaction(std::uint64_t input_bytes) {
  const std::lock_guard lock(mutex_);
  Measure();
  const std::uint64_t bytes = std::min(input_bytes, needs_.bytes_max);
  compaction_starves_ = free_bytes_ < compacting_bytes_ + bytes + OwnReserve() / 2;
  if (compaction_starves_) return std::nullopt;
  compacting_bytes_ += bytes;
  return bytes;
}

void Room::ReleaseFromCompaction(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  compacting_bytes_ -= bytes;
}

}  // namespace farswap::store
