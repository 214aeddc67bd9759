#include "bpf/programs.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "bpf/kernel_side.h"
#include "bpf/libbpf_warning.h"
#include "bpf/object_file.h"

namespace farswap::bpf {
namespace {

constexpr std::uint32_t kSlotsPerDirtyWord = 64;

struct CloseObject {
  void operator()(bpf_object* object) const { bpf_object__close(object); }
};
using Object = std::unique_ptr<bpf_object, CloseObject>;

// All descriptors of Programs with the names of their pins; the free link is last.
struct Named {
  const char* name;
  FileDescriptor Programs::*descriptor;
};
constexpr std::array kNamed{
    Named{"slots", &Programs::slots},         Named{"dirty", &Programs::dirty},
    Named{"events", &Programs::events},       Named{"counters", &Programs::counters},
    Named{"settings", &Programs::settings},   Named{"write_link", &Programs::write_link},
    Named{"free_link", &Programs::free_link},
};
constexpr const char* kSettingsMap = ".rodata";

AttributionSettings SettingsOf(const ProgramsConfig& config) {
  // MINORBITS of the kernel; user space has another layout of dev_t.
  constexpr int kMinorBits = 20;
  return {kAttributionLayout, config.device_major << kMinorBits | config.device_minor};
}

std::uint32_t DirtyWords(std::uint32_t slots) {
  return slots / kSlotsPerDirtyWord + (slots % kSlotsPerDirtyWord != 0 ? 1 : 0);
}

FileDescriptor Duplicate(int fd) { return FileDescriptor(fcntl(fd, F_DUPFD_CLOEXEC, 3)); }

bpf_program* FreeProgram(bpf_object* object, int arguments) {
  const char* name = arguments == 3 ? "slots_freed_of_3" : "slots_freed_of_4";
  return bpf_object__find_program_by_name(object, name);
}

// Returns 0 or an error number.
int Prepare(bpf_object* object, const ProgramsConfig& config) {
  const AttributionSettings settings = SettingsOf(config);
  bpf_map* const settings_map = bpf_object__find_map_by_name(object, kSettingsMap);
  int error = -bpf_map__set_initial_value(settings_map, &settings, sizeof(settings));
  const auto resize = [&](const char* name, std::uint32_t entries) {
    if (error != 0) return;
    error = -bpf_map__set_max_entries(bpf_object__find_map_by_name(object, name), entries);
  };
  resize("slots", config.slots);
  resize("dirty", DirtyWords(config.slots));
  for (const int arguments : {3, 4}) {
    const bool wanted = config.free_hook && config.free_hook->arguments == arguments;
    bpf_program* const program = FreeProgram(object, arguments);
    if (error == 0) error = -bpf_program__set_autoload(program, wanted);
    if (error == 0 && wanted) {
      error = -bpf_program__set_attach_target(program, 0, config.free_hook->function);
    }
  }
  return error;
}

// Not open on failure, with errno.
FileDescriptor Attach(bpf_program* program) {
  bpf_link* const link = bpf_program__attach(program);
  if (link == nullptr) return {};
  FileDescriptor descriptor = Duplicate(bpf_link__fd(link));
  bpf_link__destroy(link);
  return descriptor;
}

std::string PinOf(const std::string& path, const Named& named) { return path + "/" + named.name; }

bool IsBpffs(const std::string& path) {
  struct statfs found {};
  return statfs(path.c_str(), &found) == 0 && found.f_type == BPF_FS_MAGIC;
}

bool Matches(const Programs& pinned, const ProgramsConfig& config) {
  AttributionSettings settings{};
  const std::uint32_t key = 0;
  if (bpf_map_lookup_elem(pinned.settings.get(), &key, &settings) != 0) return false;
  const AttributionSettings wanted = SettingsOf(config);
  bpf_map_info info{};
  __u32 length = sizeof(info);
  if (bpf_obj_get_info_by_fd(pinned.slots.get(), &info, &length) != 0) return false;
  return settings.layout == wanted.layout && settings.device == wanted.device &&
         info.max_entries == config.slots &&
         pinned.free_link.open() == config.free_hook.has_value();
}

}  // namespace

Result<FreeHook> RunningKernelFreeHook() {
  const LibbpfWarning warning;
  btf* const types = btf__load_vmlinux_btf();
  if (types == nullptr)
    return Error{warning.Explain("failed to read the types of the running kernel (BTF)", errno)};
  const std::optional<FreeHook> hook = ChooseFreeHook(types);
  btf__free(types);
  if (!hook) return Error{"this kernel has no known function that frees swap slots"};
  return *hook;
}

Result<Programs> LoadPrograms(const ProgramsConfig& config) {
  const LibbpfWarning warning;
  bpf_object_open_opts options{};
  options.sz = sizeof(options);
  options.object_name = "farswap";
  const std::span<const unsigned char> file = ObjectFile();
  const Object object(bpf_object__open_mem(file.data(), file.size(), &options));
  if (object == nullptr) return Error{warning.Explain("failed to read the BPF object", errno)};
  if (const int error = Prepare(object.get(), config); error != 0) {
    return Error{warning.Explain("failed to prepare the BPF programs", error)};
  }
  if (const int error = -bpf_object__load(object.get()); error != 0) {
    return Error{warning.Explain("the kernel refused the BPF programs", error)};
  }
  Programs programs;
  programs.write_link = Attach(bpf_object__find_program_by_name(object.get(), "swap_write"));
  if (!programs.write_link.open()) {
    return Error{warning.Explain("the kernel refused the tracepoint block_bio_queue", errno)};
  }
  if (config.free_hook) {
    programs.free_link = Attach(FreeProgram(object.get(), config.free_hook->arguments));
    if (!programs.free_link.open()) {
      return Error{warning.Explain(
          std::string("the kernel refused the hook at ") + config.free_hook->function, errno)};
    }
  }
  const auto map = [&](const char* name) {
    return Duplicate(bpf_map__fd(bpf_object__find_map_by_name(object.get(), name)));
  };
  programs.slots = map("slots");
  programs.dirty = map("dirty");
  programs.events = map("events");
  programs.counters = map("counters");
  programs.settings = map(kSettingsMap);
  return programs;
}

std::string PinPath(const std::string& pin_directory, const ProgramsConfig& config) {
  if (pin_directory.empty()) return "";
  // The last component may be missing; it is created in a bpffs.
  const std::string parent = pin_directory.substr(0, pin_directory.find_last_of('/'));
  if (!IsBpffs(pin_directory) && !IsBpffs(parent)) return "";
  return pin_directory + "/" + std::to_string(config.device_major) + "-" +
         std::to_string(config.device_minor);
}

std::optional<Programs> OpenPinned(const std::string& path, const ProgramsConfig& config) {
  Programs pinned;
  for (const Named& named : kNamed) {
    pinned.*named.descriptor = FileDescriptor(bpf_obj_get(PinOf(path, named).c_str()));
    const bool optional = named.descriptor == &Programs::free_link;
    if (!(pinned.*named.descriptor).open() && !optional) return std::nullopt;
  }
  if (!Matches(pinned, config)) return std::nullopt;
  return pinned;
}

Outcome Pin(const Programs& programs, const std::string& path) {
  Unpin(path);
  constexpr mode_t kForRoot = 0700;
  const std::string parent = path.substr(0, path.find_last_of('/'));
  for (const std::string& directory : {parent, path}) {
    if (mkdir(directory.c_str(), kForRoot) != 0 && errno != EEXIST) {
      return Error{directory + ": " + std::strerror(errno)};
    }
  }
  for (const Named& named : kNamed) {
    const FileDescriptor& descriptor = programs.*named.descriptor;
    if (!descriptor.open()) continue;
    const std::string pin = PinOf(path, named);
    if (bpf_obj_pin(descriptor.get(), pin.c_str()) != 0) {
      Error error{pin + ": " + std::strerror(errno)};
      Unpin(path);
      return error;
    }
  }
  return std::monostate{};
}

void Unpin(const std::string& path) {
  for (const Named& named : kNamed) unlink(PinOf(path, named).c_str());
  rmdir(path.c_str());
}

}  // namespace farswap::bpf
