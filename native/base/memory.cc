#include "base/memory.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <variant>

#include "base/file_descriptor.h"

namespace farswap {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

std::size_t RoundUp(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

Error Failed(const std::string& what) {
  return Error{"failed to " + what + ": " + std::strerror(errno)};
}

// A file without a name, on a file system that is mounted nowhere.
Result<FileDescriptor> OpenOn(const char* file_system, const std::string& bytes) {
  const FileDescriptor context(fsopen(file_system, FSOPEN_CLOEXEC));
  if (context.get() < 0) return Failed(std::string("open the file system ") + file_system);
  const bool tmpfs = !bytes.empty();
  const auto set = [&](unsigned command, const char* key, const char* value) {
    return fsconfig(context.get(), command, key, value, 0) == 0;
  };
  if (tmpfs && !(set(FSCONFIG_SET_STRING, "size", bytes.c_str()) &&
                 set(FSCONFIG_SET_FLAG, "noswap", nullptr))) {
    return Failed("mount a tmpfs with noswap");
  }
  if (tmpfs) set(FSCONFIG_SET_STRING, "huge", "always");  // a kernel may have none
  if (!set(FSCONFIG_CMD_CREATE, nullptr, nullptr)) {
    return Failed(std::string("mount a ") + file_system);
  }
  const FileDescriptor root(fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
  if (root.get() < 0) return Failed(std::string("mount a ") + file_system);
  FileDescriptor file(openat(root.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file.get() < 0) return Failed(std::string("make a file on a ") + file_system);
  return file;
}

Result<FileDescriptor> OpenHugetlb(const std::string& name) {
  FileDescriptor file(memfd_create(name.c_str(), MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB));
  if (file.get() < 0) return Failed("make a file of huge pages");
  return file;
}

Result<Memory::Handle> MakeSegment(std::size_t bytes) {
  const int id = shmget(IPC_PRIVATE, bytes, IPC_CREAT | 0600);
  if (id < 0) return Failed("make a System V segment");
  // Before it is touched: its pages are unevictable from then on.
  if (shmctl(id, SHM_LOCK, nullptr) != 0) {
    Error error = Failed("lock a System V segment");
    shmctl(id, IPC_RMID, nullptr);
    return error;
  }
  return Memory::Handle{MemoryKind::kSysv, id};
}

Result<Memory::Handle> MakeFile(MemoryKind kind, const std::string& name, std::size_t bytes) {
  auto file = kind == MemoryKind::kHugetlb ? OpenHugetlb(name)
              : kind == MemoryKind::kTmpfs ? OpenOn("tmpfs", std::to_string(bytes))
                                           : OpenOn("ramfs", "");
  if (!file.ok()) return file.error();
  if (ftruncate(file.value().get(), static_cast<off_t>(bytes)) != 0) {
    return Failed("size a file of " + std::to_string(bytes) + " bytes");
  }
  return Memory::Handle{kind, file.value().release()};
}

Result<std::size_t> SizeOf(const Memory::Handle& handle) {
  if (handle.kind == MemoryKind::kSysv) {
    shmid_ds segment{};
    if (shmctl(handle.number, IPC_STAT, &segment) != 0) return Failed("find a System V segment");
    return std::size_t{segment.shm_segsz};
  }
  struct stat file {};
  if (fstat(handle.number, &file) != 0) return Failed("find the file of a memory");
  return static_cast<std::size_t>(file.st_size);
}

}  // namespace

const char* NameOf(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kPrivate:
      return "private";
    case MemoryKind::kHugetlb:
      return "hugetlb";
    case MemoryKind::kTmpfs:
      return "tmpfs";
    case MemoryKind::kSysv:
      return "sysv";
    case MemoryKind::kRamfs:
      return "ramfs";
  }
  return "";
}

Result<std::unique_ptr<Memory>> Memory::Create(std::size_t bytes, const std::string& name,
                                               MemoryKind kind) {
  const bool huge = bytes >= kHugePageBytes || kind == MemoryKind::kHugetlb;
  const std::size_t length = RoundUp(bytes, huge ? kHugePageBytes : 4096);
  Handle handle{kind, -1};
  if (kind != MemoryKind::kPrivate) {
    auto made = kind == MemoryKind::kSysv ? MakeSegment(length) : MakeFile(kind, name, length);
    if (!made.ok()) return made.error();
    handle = made.value();
  }
  std::unique_ptr<Memory> memory(new Memory(handle, length));
  if (const Outcome mapped = memory->Map(); !mapped.ok()) {
    memory->Remove();
    return Error{mapped.error().message + ", for the " + name};
  }
#ifdef PR_SET_VMA
  if (kind == MemoryKind::kPrivate) {
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, memory->data(), length, ("farswap-" + name).c_str());
  }
#endif
  return memory;
}

Result<std::unique_ptr<Memory>> Memory::Adopt(const Handle& handle) {
  auto bytes = SizeOf(handle);
  std::unique_ptr<Memory> memory(new Memory(handle, bytes.ok() ? bytes.value() : 0));
  if (!bytes.ok()) return bytes.error();
  if (const Outcome mapped = memory->Map(); !mapped.ok()) return mapped.error();
  return memory;
}

Outcome Memory::Map() {
  void* address = MAP_FAILED;
  if (handle_.kind == MemoryKind::kSysv) {
    address = shmat(handle_.number, nullptr, 0);
  } else if (handle_.kind == MemoryKind::kPrivate) {
    address = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  } else {
    address = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, handle_.number, 0);
  }
  if (address == MAP_FAILED) return Failed("map " + std::to_string(bytes_) + " bytes");
  data_ = static_cast<std::byte*>(address);
  if (bytes_ >= kHugePageBytes) madvise(address, bytes_, MADV_HUGEPAGE);
  // A child must not copy the mapping: its exit would be slow, and copy-on-write faults would
  // allocate. A core dump must not show pages.
  madvise(address, bytes_, MADV_DONTFORK);
  madvise(address, bytes_, MADV_DONTDUMP);
  if (mlock(address, bytes_) != 0 && madvise(address, bytes_, MADV_POPULATE_WRITE) != 0) {
    return Failed("populate " + std::to_string(bytes_) + " bytes");
  }
  return std::monostate{};
}

void Memory::Remove() {
  if (handle_.kind == MemoryKind::kSysv) shmctl(handle_.number, IPC_RMID, nullptr);
}

Memory::~Memory() {
  if (handle_.kind == MemoryKind::kSysv) {
    if (data_ != nullptr) shmdt(data_);
    return;
  }
  if (data_ != nullptr) munmap(data_, bytes_);
  if (handle_.number >= 0) close(handle_.number);
}

}  // namespace farswap
