// Attributes each slot of one swap device to a cgroup and reports freed slots, by programs in the
// running kernel (slot_words.bpf.c).
//
// The words are in memory shared with the kernel: reading one is a load. Events report freed slots;
// the thread fs-slot-free receives them and calls back for each slot. It clears the slot's dirty
// bit before, so that a later free sends another event. The callback reads the slot's word, which
// may have changed since the free, and decides (Tier::OnSlotFree). Once a second the thread scans
// all dirty bits for events that the full ring dropped. A lost event only leaks a page.
//
// The kernel may refuse all or part of this; the daemon serves pages without it.
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
  /// Directory of a bpffs in which the programs outlive the daemon. Empty: no pins.
  std::string pin_directory;
  /// Whether freed slots are reported.
  bool free_notifications = true;
};

/// Monotonic.
struct AttributionCounters {
  std::uint64_t bios = 0;           // swap writes of the device
  std::uint64_t pages = 0;          // pages in them
  std::uint64_t unattributed = 0;   // of these, pages without a known cgroup
  std::uint64_t freed = 0;          // slots that the kernel freed
  std::uint64_t events = 0;         // events, each for up to 64 freed slots
  std::uint64_t ring_full = 0;      // events dropped by the full ring
  std::uint64_t notified = 0;       // callbacks of this process
  std::uint64_t notified_late = 0;  // of these, later than kPromptNs
};

class SlotAttribution {
 public:
  /// Called for a freed slot, on the thread fs-slot-free. True: its page was dropped.
  using OnSlotFree = std::function<bool(tier::SlotIndex)>;

  static constexpr std::uint64_t kPromptNs = 100'000'000;

  /// Starts attribution of pages that are swapped out from now on. The error says what the kernel
  /// refused.
  static Result<std::unique_ptr<SlotAttribution>> Create(const SlotAttributionConfig& config);
  /// Removes the programs and their pins from the kernel. Invalidates words().
  ~SlotAttribution();
  SlotAttribution(const SlotAttribution&) = delete;
  SlotAttribution& operator=(const SlotAttribution&) = delete;

  /// One word per slot, written by the kernel.
  const std::atomic<tier::SlotWord>* words() const { return words_; }
  /// The hooked kernel function that frees slots; empty if none.
  const std::string& free_hook() const { return free_hook_; }
  /// Requested features that are missing, and why; empty if none.
  const std::string& problem() const { return problem_; }

  /// Starts callbacks for freed slots, including those freed before. No effect without a free hook.
  void StartNotifying(OnSlotFree on_slot_free);
  /// Stops callbacks; none runs after it returns. Idempotent.
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
  std::string pins_;  // empty if none
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
