// Knows of each slot of one swap device whose page it holds and whether the kernel still wants it,
// by programs in the running kernel (slot_words.bpf.c).
//
// The words are in memory that this process shares with the kernel: reading one is a load. Freed
// slots are told by events; a thread, fs-slot-free, takes them and calls back for each slot. It
// clears a slot's dirty bit before it calls back, so that a free after the bit was cleared is told
// again; the callback reads the slot's word, which may have changed since the free it is called
// for, and decides (Tier::OnSlotFree). Once a second the thread looks through all dirty bits for
// those whose event found no room. An event that is never told only leaks a page.
//
// All of this may be refused by the kernel, wholly or in part; nothing here is needed to serve.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "bpf/programs.h"
#include "tier/page.h"
#include "tier/slot_words.h"

struct ring_buffer;

namespace farswap::bpf {

struct SlotAttributionConfig {
  std::uint32_t device_major = 0;
  std::uint32_t device_minor = 0;
  std::uint64_t slots = 0;
  /// In a bpffs: the programs are left there for a daemon that starts anew. Empty: nowhere.
  std::string pin_directory;
  /// Whether freed slots are to be told.
  bool free_notifications = true;
};

/// Monotonic.
struct AttributionCounters {
  std::uint64_t bios = 0;           // swap writes of the device
  std::uint64_t pages = 0;          // pages in them
  std::uint64_t unattributed = 0;   // of these, pages whose cgroup the kernel did not know
  std::uint64_t freed = 0;          // slots that the kernel gave up
  std::uint64_t events = 0;         // events that told of them, each of up to 64 slots
  std::uint64_t ring_full = 0;      // events that found no room
  std::uint64_t notified = 0;       // slots called back for, by this process
  std::uint64_t notified_late = 0;  // of these, not within kPromptNs
};

class SlotAttribution {
 public:
  /// Of a freed slot; runs on the thread fs-slot-free. True: its page was dropped.
  using OnSlotFree = std::function<bool(tier::SlotIndex)>;

  static constexpr std::uint64_t kPromptNs = 100'000'000;

  /// Starts attribution, so that words are right of all that is swapped out from now on. The error
  /// says why the kernel does not let us.
  static Result<std::unique_ptr<SlotAttribution>> Create(const SlotAttributionConfig& config);
  /// Takes the programs out of the kernel, with their pins. Nobody may use words() any more.
  ~SlotAttribution();
  SlotAttribution(const SlotAttribution&) = delete;
  SlotAttribution& operator=(const SlotAttribution&) = delete;

  /// One word per slot, written by the kernel.
  const std::atomic<tier::SlotWord>* words() const { return words_; }
  /// The kernel's function by which frees are seen; empty when they are not.
  const std::string& free_hook() const { return free_hook_; }
  /// What was asked for and is missing, and why; empty: nothing.
  const std::string& problem() const { return problem_; }

  /// Starts to tell of freed slots, also of those freed before, of which the tier drops those that
  /// it has seen stored. No effect without a free hook.
  void StartNotifying(OnSlotFree on_slot_free);
  /// When it returns the callback runs no more. Idempotent.
  void StopNotifying();

  AttributionCounters counters() const;

 private:
  SlotAttribution() = default;

  Outcome MapShared(std::uint64_t slots);
  void Run();
  void Sweep();
  void TakeDirtyWord(std::uint64_t dirty_word, bool prompt);
  static int TakeEvent(void* self, void* event, std::size_t bytes);

  Programs programs_;
  std::string pins_;  // empty: none
  std::string free_hook_;
  std::string problem_;

  const std::atomic<tier::SlotWord>* words_ = nullptr;
  std::atomic<std::uint64_t>* dirty_ = nullptr;
  std::uint64_t slots_ = 0;
  std::uint64_t dirty_words_ = 0;
  ring_buffer* ring_ = nullptr;

  OnSlotFree on_slot_free_;
  FileDescriptor stop_event_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
  std::atomic<std::uint64_t> notified_{0};
  std::atomic<std::uint64_t> notified_late_{0};
};

}  // namespace farswap::bpf
