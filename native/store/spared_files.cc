#include "store/spared_files.h"

#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace farswap::store {
namespace {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;

// The compaction of the calling thread. It runs in one thread, from OnCompactionBegin on.
struct Compaction {
  bool running = false;
  bool refused = false;
  std::uint64_t reserved_bytes = 0;
};
thread_local Compaction t_compaction;

bool IsFull(const IOStatus& status) {
  // RocksDB keeps the text of an errno, and a code only for ENOSPC.
  static const std::string over_quota = std::system_category().message(EDQUOT);
  return status.IsNoSpace() ||
         (status.IsIOError() && status.ToString().find(over_quota) != std::string::npos);
}

IOStatus ToBeRetried(IOStatus status) {
  if (!status.IsIOError() || status.IsPathNotFound()) return status;
  IOStatus retried = IOStatus::IOError(status.getState() ? status.getState() : "");
  retried.SetRetryable(true);
  retried.SetScope(IOStatus::kIOErrorScopeFile);
  return retried;
}

IOStatus NoRoom(const std::string& name) {
  return ToBeRetried(IOStatus::IOError("no room for a compaction: " + name));
}

/// Repeats `operation` until it finds room or the ballast is used up.
template <typename Operation>
IOStatus WithRoom(Room* room, const Operation& operation) {
  for (;;) {
    IOStatus status = operation();
    if (!IsFull(status) || !room->GiveUp()) return ToBeRetried(std::move(status));
  }
}

// One thread at a time: RocksDB never calls Sync() or RangeSync() during an Append().
class SparedWritableFile final : public rocksdb::FSWritableFile {
 public:
  SparedWritableFile(rocksdb::FileSystem* files, Room* room, std::string name,
                     const rocksdb::FileOptions& options,
                     std::unique_ptr<rocksdb::FSWritableFile> file, bool is_compaction)
      : files_(files),
        room_(room),
        name_(std::move(name)),
        options_(options),
        file_(std::move(file)),
        size_(file_->GetFileSize({}, nullptr)),
        is_compaction_(is_compaction) {}

  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options,
                  IODebugContext* debug) override {
    if (is_compaction_) {
      return room_->is_low() ? NoRoom(name_) : ToBeRetried(file_->Append(data, options, debug));
    }
    return WithRoom(room_, [&] {
      IOStatus status = is_torn_ ? Repair() : IOStatus::OK();
      if (status.ok()) {
        status = file_->Append(data, options, debug);
        is_torn_ = !status.ok();
        size_ += is_torn_ ? 0 : data.size();
      }
      return status;
    });
  }
  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options,
                  const rocksdb::DataVerificationInfo& /*info*/, IODebugContext* debug) override {
    return Append(data, options, debug);
  }
  IOStatus Truncate(std::uint64_t size, const IOOptions& options, IODebugContext* debug) override {
    size_ = size;
    return ToBeRetried(file_->Truncate(size, options, debug));
  }
  IOStatus Close(const IOOptions& options, IODebugContext* debug) override {
    return ToBeRetried(file_->Close(options, debug));
  }
  IOStatus Flush(const IOOptions& options, IODebugContext* debug) override {
    return ToBeRetried(file_->Flush(options, debug));
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* debug) override {
    return ToBeRetried(file_->Sync(options, debug));
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    return ToBeRetried(file_->Fsync(options, debug));
  }
  IOStatus RangeSync(std::uint64_t offset, std::uint64_t bytes, const IOOptions& options,
                     IODebugContext* debug) override {
    return ToBeRetried(file_->RangeSync(offset, bytes, options, debug));
  }
  // Ignores a full disk: Append() allocates what is not preallocated.
  void PrepareWrite(std::size_t offset, std::size_t length, const IOOptions& options,
                    IODebugContext* debug) override {
    file_->PrepareWrite(offset, length, options, debug);
  }
  void SetPreallocationBlockSize(std::size_t size) override {
    file_->SetPreallocationBlockSize(size);
  }
  void GetPreallocationStatus(std::size_t* block_size, std::size_t* last_block) override {
    file_->GetPreallocationStatus(block_size, last_block);
  }
  IOStatus InvalidateCache(std::size_t offset, std::size_t length) override {
    return file_->InvalidateCache(offset, length);
  }
  bool IsSyncThreadSafe() const override { return file_->IsSyncThreadSafe(); }
  std::size_t GetRequiredBufferAlignment() const override {
    return file_->GetRequiredBufferAlignment();
  }
  std::uint64_t GetFileSize(const IOOptions& options, IODebugContext* debug) override {
    return file_->GetFileSize(options, debug);
  }

 private:
  // A failed Append() may have written a part: truncates it and repeats the rest.
  IOStatus Repair() {
    IOStatus status = file_->Truncate(size_, {}, nullptr);
    std::unique_ptr<rocksdb::FSWritableFile> again;
    if (status.ok()) status = files_->ReopenWritableFile(name_, options_, &again, nullptr);
    if (status.ok()) {
      file_->Close({}, nullptr).PermitUncheckedError();
      file_ = std::move(again);
      is_torn_ = false;
    }
    return status;
  }

  rocksdb::FileSystem* const files_;
  Room* const room_;
  const std::string name_;
  const rocksdb::FileOptions options_;
  std::unique_ptr<rocksdb::FSWritableFile> file_;
  std::uint64_t size_;  // known to RocksDB
  const bool is_compaction_;
  bool is_torn_ = false;
};

// An unreadable block fails a compaction, which must not stop the store.
class SparedReadableFile final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  using FSRandomAccessFileOwnerWrapper::FSRandomAccessFileOwnerWrapper;

  IOStatus Read(std::uint64_t offset, std::size_t length, const IOOptions& options,
                rocksdb::Slice* result, char* scratch, IODebugContext* debug) const override {
    return ToBeRetried(target()->Read(offset, length, options, result, scratch, debug));
  }
  IOStatus MultiRead(rocksdb::FSReadRequest* requests, std::size_t count, const IOOptions& options,
                     IODebugContext* debug) override {
    const IOStatus status = target()->MultiRead(requests, count, options, debug);
    for (std::size_t i = 0; i < count; ++i) requests[i].status = ToBeRetried(requests[i].status);
    return ToBeRetried(status);
  }
};

class SparedDirectory final : public rocksdb::FSDirectoryWrapper {
 public:
  explicit SparedDirectory(std::unique_ptr<rocksdb::FSDirectory> directory)
      : FSDirectoryWrapper(std::move(directory)) {}

  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    return ToBeRetried(FSDirectoryWrapper::Fsync(options, debug));
  }
  IOStatus FsyncWithDirOptions(const IOOptions& options, IODebugContext* debug,
                               const rocksdb::DirFsyncOptions& how) override {
    return ToBeRetried(FSDirectoryWrapper::FsyncWithDirOptions(options, debug, how));
  }
};

class SparedFiles final : public rocksdb::FileSystemWrapper {
 public:
  SparedFiles(const std::shared_ptr<rocksdb::FileSystem>& files, Room* room)
      : FileSystemWrapper(files), room_(room) {}

  const char* Name() const override { return "farswap.spared"; }

  IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* result,
                           IODebugContext* debug) override {
    const bool is_compaction = t_compaction.running && std::string_view(name).ends_with(".sst");
    if (is_compaction && t_compaction.refused) return NoRoom(name);
    return Wrap(name, options, is_compaction, result,
                [&](auto* file) { return target()->NewWritableFile(name, options, file, debug); });
  }
  IOStatus ReopenWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                              std::unique_ptr<rocksdb::FSWritableFile>* result,
                              IODebugContext* debug) override {
    return Wrap(name, options, false, result, [&](auto* file) {
      return target()->ReopenWritableFile(name, options, file, debug);
    });
  }
  IOStatus ReuseWritableFile(const std::string& name, const std::string& old_name,
                             const rocksdb::FileOptions& options,
                             std::unique_ptr<rocksdb::FSWritableFile>* result,
                             IODebugContext* debug) override {
    return Wrap(name, options, false, result, [&](auto* file) {
      return target()->ReuseWritableFile(name, old_name, options, file, debug);
    });
  }
  IOStatus NewRandomAccessFile(const std::string& name, const rocksdb::FileOptions& options,
                               std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
                               IODebugContext* debug) override {
    IOStatus status = target()->NewRandomAccessFile(name, options, result, debug);
    if (status.ok()) *result = std::make_unique<SparedReadableFile>(std::move(*result));
    return ToBeRetried(std::move(status));
  }
  IOStatus NewDirectory(const std::string& name, const IOOptions& options,
                        std::unique_ptr<rocksdb::FSDirectory>* result,
                        IODebugContext* debug) override {
    IOStatus status = target()->NewDirectory(name, options, result, debug);
    if (status.ok()) *result = std::make_unique<SparedDirectory>(std::move(*result));
    return ToBeRetried(std::move(status));
  }
  IOStatus CreateDirIfMissing(const std::string& name, const IOOptions& options,
                              IODebugContext* debug) override {
    return WithRoom(room_, [&] { return target()->CreateDirIfMissing(name, options, debug); });
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                      IODebugContext* debug) override {
    return WithRoom(room_, [&] { return target()->RenameFile(from, to, options, debug); });
  }
  IOStatus LinkFile(const std::string& from, const std::string& to, const IOOptions& options,
                    IODebugContext* debug) override {
    return WithRoom(room_, [&] { return target()->LinkFile(from, to, options, debug); });
  }
  IOStatus LockFile(const std::string& name, const IOOptions& options, rocksdb::FileLock** lock,
                    IODebugContext* debug) override {
    return WithRoom(room_, [&] { return target()->LockFile(name, options, lock, debug); });
  }

 private:
  template <typename Make>
  IOStatus Wrap(const std::string& name, const rocksdb::FileOptions& options, bool is_compaction,
                std::unique_ptr<rocksdb::FSWritableFile>* result, const Make& make) {
    std::unique_ptr<rocksdb::FSWritableFile> file;
    IOStatus status =
        is_compaction ? ToBeRetried(make(&file)) : WithRoom(room_, [&] { return make(&file); });
    if (status.ok()) {
      *result = std::make_unique<SparedWritableFile>(target(), room_, name, options,
                                                     std::move(file), is_compaction);
    }
    return status;
  }

  Room* const room_;
};

class CompactionWatch final : public rocksdb::EventListener {
 public:
  CompactionWatch(std::shared_ptr<rocksdb::FileSystem> files, Room* room)
      : files_(std::move(files)), room_(room) {}

  void OnCompactionBegin(rocksdb::DB* /*db*/, const rocksdb::CompactionJobInfo& job) override {
    std::uint64_t bytes = 0;
    for (const std::string& name : job.input_files) {
      std::uint64_t size = 0;
      files_->GetFileSize(name, {}, &size, nullptr).PermitUncheckedError();
      bytes += size;
    }
    const auto reserved = room_->ReserveForCompaction(bytes);
    t_compaction = {true, !reserved.has_value(), reserved.value_or(0)};
  }
  void OnCompactionCompleted(rocksdb::DB* /*db*/,
                             const rocksdb::CompactionJobInfo& /*job*/) override {
    room_->ReleaseFromCompaction(t_compaction.reserved_bytes);
    t_compaction = {};
  }

 private:
  const std::shared_ptr<rocksdb::FileSystem> files_;
  Room* const room_;
};

}  // namespace

std::shared_ptr<rocksdb::FileSystem> MakeSparedFiles(
    const std::shared_ptr<rocksdb::FileSystem>& files, Room* room) {
  return std::make_shared<SparedFiles>(files, room);
}

std::shared_ptr<rocksdb::EventListener> MakeCompactionWatch(
    std::shared_ptr<rocksdb::FileSystem> files, Room* room) {
  return std::make_shared<CompactionWatch>(std::move(files), room);
}

}  // namespace farswap::store
