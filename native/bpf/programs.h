// Loads and attaches the programs of slot_words.bpf.c, and finds pinned ones again.
//
// The programs run as long as a descriptor or a pin (a file of a bpffs) holds their links; maps
// exist as long as anything holds them. With pins they outlive this process, and words stay up to
// date while no daemon runs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "bpf/free_hook.h"

namespace farswap::bpf {

struct ProgramsConfig {
  std::uint32_t device_major = 0;
  std::uint32_t device_minor = 0;
  std::uint32_t slots = 0;
  std::optional<FreeHook> free_hook;  // nullopt: only attribution
};

struct Programs {
  // Maps, named as in slot_words.bpf.c.
  FileDescriptor slots;
  FileDescriptor dirty;
  FileDescriptor events;
  FileDescriptor counters;
  FileDescriptor settings;
  // Links. Closing the last descriptor of an unpinned link removes the program.
  FileDescriptor write_link;
  FileDescriptor free_link;  // not open without a free hook
};

/// Loads and attaches the programs. An error names the step that the kernel refused.
Result<Programs> LoadPrograms(const ProgramsConfig& config);

/// Finds the free hook of the running kernel.
Result<FreeHook> RunningKernelFreeHook();

/// Directory of a device's pins, in `pin_directory`. Empty if that is not on a bpffs.
std::string PinPath(const std::string& pin_directory, const ProgramsConfig& config);

/// The programs that an earlier process pinned at `path`, if complete and equal to `config`.
std::optional<Programs> OpenPinned(const std::string& path, const ProgramsConfig& config);
/// Replaces the pins at `path`.
Outcome Pin(const Programs& programs, const std::string& path);
void Unpin(const std::string& path);

}  // namespace farswap::bpf
