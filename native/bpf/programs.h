// The programs of slot_words.bpf.c in the running kernel: loaded, attached, and found again.
//
// What is open here is open in the kernel: the programs run as long as a descriptor or a pin (a
// file of a bpffs) holds their links, and the maps live as long as anything holds them. So pins let
// them outlive this process, and words go on being written while no daemon runs.
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
  std::optional<FreeHook> free_hook;  // none: only attribution
};

struct Programs {
  // Maps, as slot_words.bpf.c names them.
  FileDescriptor slots;
  FileDescriptor dirty;
  FileDescriptor events;
  FileDescriptor counters;
  FileDescriptor settings;
  // Links: closing the last descriptor of one that is not pinned takes the program out.
  FileDescriptor write_link;
  FileDescriptor free_link;  // not open: there is no free hook
};

/// Loads and attaches. The message of a failure says what the kernel would not do.
Result<Programs> LoadPrograms(const ProgramsConfig& config);

/// Finds the hook of the running kernel; the message says why there is none.
Result<FreeHook> RunningKernelFreeHook();

/// Where the pins of a device are: a directory of its own in `pin_directory`. Empty when that is on
/// no mounted bpffs.
std::string PinPath(const std::string& pin_directory, const ProgramsConfig& config);

/// What an earlier process pinned at `path`, if it is all there and just what `config` asks for.
std::optional<Programs> OpenPinned(const std::string& path, const ProgramsConfig& config);
/// Replaces what is pinned at `path`.
Outcome Pin(const Programs& programs, const std::string& path);
void Unpin(const std::string& path);

}  // namespace farswap::bpf
