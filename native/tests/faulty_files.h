// A file system that fails on demand, below a store.
#pragma once

#include <rocksdb/file_system.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>

namespace farswap::store {

/// How often something fails, in thousandths, and with what.
struct Faults {
  static constexpr int kAlways = 1000;

  std::atomic<int> writes{0};  // also syncs, renames and new files
  std::atomic<int> reads{0};
  std::atomic<bool> full{false};  // ENOSPC instead of EIO

  bool Strike(const std::atomic<int>& thousandths) const {
    const int chance = thousandths.load();
    thread_local std::minstd_rand random(std::random_device{}());
    return chance > 0 && static_cast<int>(random() % kAlways) < chance;
  }
  rocksdb::IOStatus Error(std::string_view what) const {
    const rocksdb::Slice text(what.data(), what.size());
    return full ? rocksdb::IOStatus::NoSpace(text, "No space left on device")
                : rocksdb::IOStatus::IOError(text, "Input/output error");
  }
};

class FaultyFiles final : public rocksdb::FileSystemWrapper {
 public:
  explicit FaultyFiles(Faults* faults)
      : FileSystemWrapper(rocksdb::FileSystem::Default()), faults_(faults) {}

  const char* Name() const override { return "faulty"; }

  using Options = rocksdb::FileOptions;
  using Debug = rocksdb::IODebugContext;

  rocksdb::IOStatus NewWritableFile(const std::string& name, const Options& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    Debug* debug) override {
    return Wrap(target()->NewWritableFile(name, options, file, debug), file);
  }
  rocksdb::IOStatus ReopenWritableFile(const std::string& name, const Options& options,
                                       std::unique_ptr<rocksdb::FSWritableFile>* file,
                                       Debug* debug) override {
    return Wrap(target()->ReopenWritableFile(name, options, file, debug), file);
  }
  rocksdb::IOStatus NewRandomAccessFile(const std::string& name, const Options& options,
                                        std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                                        Debug* debug) override {
    auto status = target()->NewRandomAccessFile(name, options, file, debug);
    if (status.ok()) *file = std::make_unique<Readable>(std::move(*file), faults_);
    return status;
  }
  rocksdb::IOStatus NewDirectory(const std::string& name, const rocksdb::IOOptions& options,
                                 std::unique_ptr<rocksdb::FSDirectory>* directory,
                                 Debug* debug) override {
    auto status = target()->NewDirectory(name, options, directory, debug);
    if (status.ok()) *directory = std::make_unique<Directory>(std::move(*directory), faults_);
    return status;
  }
  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to,
                               const rocksdb::IOOptions& options, Debug* debug) override {
    return faults_->Strike(faults_->writes) ? faults_->Error("rename")
                                            : target()->RenameFile(from, to, options, debug);
  }
  rocksdb::IOStatus DeleteFile(const std::string& name, const rocksdb::IOOptions& options,
                               Debug* debug) override {
    return faults_->Strike(faults_->writes) ? faults_->Error("delete")
                                            : target()->DeleteFile(name, options, debug);
  }
  rocksdb::IOStatus LockFile(const std::string& name, const rocksdb::IOOptions& options,
                             rocksdb::FileLock** lock, Debug* debug) override {
    return faults_->Strike(faults_->writes) ? faults_->Error("open")
                                            : target()->LockFile(name, options, lock, debug);
  }

 private:
  class Writable final : public rocksdb::FSWritableFileOwnerWrapper {
   public:
    Writable(std::unique_ptr<rocksdb::FSWritableFile> file, const Faults* faults)
        : FSWritableFileOwnerWrapper(std::move(file)), faults_(faults) {}

    using FSWritableFileOwnerWrapper::Append;
    // A part of it may be written.
    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             Debug* debug) override {
      if (!faults_->Strike(faults_->writes)) return target()->Append(data, options, debug);
      target()->Append({data.data(), data.size() / 2}, options, debug).PermitUncheckedError();
      return faults_->Error("append");
    }
    rocksdb::IOStatus Sync(const rocksdb::IOOptions& options, Debug* debug) override {
      return faults_->Strike(faults_->writes) ? faults_->Error("sync")
                                              : target()->Sync(options, debug);
    }
    rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options, Debug* debug) override {
      return faults_->Strike(faults_->writes) ? faults_->Error("fsync")
                                              : target()->Fsync(options, debug);
    }
    rocksdb::IOStatus RangeSync(std::uint64_t offset, std::uint64_t bytes,
                                const rocksdb::IOOptions& options, Debug* debug) override {
      return faults_->Strike(faults_->writes) ? faults_->Error("range sync")
                                              : target()->RangeSync(offset, bytes, options, debug);
    }
    rocksdb::IOStatus Truncate(std::uint64_t size, const rocksdb::IOOptions& options,
                               Debug* debug) override {
      return faults_->Strike(faults_->writes) ? faults_->Error("truncate")
                                              : target()->Truncate(size, options, debug);
    }
    rocksdb::IOStatus Close(const rocksdb::IOOptions& options, Debug* debug) override {
      auto status = target()->Close(options, debug);
      return faults_->Strike(faults_->writes) ? faults_->Error("close") : status;
    }

   private:
    const Faults* const faults_;
  };

  class Readable final : public rocksdb::FSRandomAccessFileOwnerWrapper {
   public:
    Readable(std::unique_ptr<rocksdb::FSRandomAccessFile> file, const Faults* faults)
        : FSRandomAccessFileOwnerWrapper(std::move(file)), faults_(faults) {}

    rocksdb::IOStatus Read(std::uint64_t offset, std::size_t length,
                           const rocksdb::IOOptions& options, rocksdb::Slice* result, char* scratch,
                           Debug* debug) const override {
      return faults_->Strike(faults_->reads)
                 ? faults_->Error("read")
                 : target()->Read(offset, length, options, result, scratch, debug);
    }

   private:
    const Faults* const faults_;
  };

  class Directory final : public rocksdb::FSDirectoryWrapper {
   public:
    Directory(std::unique_ptr<rocksdb::FSDirectory> directory, const Faults* faults)
        : FSDirectoryWrapper(std::move(directory)), faults_(faults) {}

    rocksdb::IOStatus FsyncWithDirOptions(const rocksdb::IOOptions& options, Debug* debug,
                                          const rocksdb::DirFsyncOptions& how) override {
      return faults_->Strike(faults_->writes)
                 ? faults_->Error("sync directory")
                 : FSDirectoryWrapper::FsyncWithDirOptions(options, debug, how);
    }

   private:
    const Faults* const faults_;
  };

  rocksdb::IOStatus Wrap(rocksdb::IOStatus made, std::unique_ptr<rocksdb::FSWritableFile>* file) {
    if (faults_->Strike(faults_->writes)) {
      file->reset();
      return faults_->Error("create");
    }
    if (made.ok()) *file = std::make_unique<Writable>(std::move(*file), faults_);
    return made;
  }

  const Faults* const faults_;
};

}  // namespace farswap::store
