#include "bpf/slot_attribution.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/thread.h"
#include "bpf/kernel_side.h"
#include "bpf/libbpf_warning.h"

namespace farswap::bpf {
namespace {

constexpr int kSweepPeriodMs = 1000;
constexpr std::uint64_t kBitsPerWord = 64;
static_assert(sizeof(std::atomic<std::uint64_t>) == 8);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

std::uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  constexpr std::uint64_t kNsPerSecond = 1'000'000'000;
  return static_cast<std::uint64_t>(now.tv_sec) * kNsPerSecond +
         static_cast<std::uint64_t>(now.tv_nsec);
}

// A kernel that refuses the free hook at any step may still allow attribution.
Result<Programs> LoadAsFarAsPossible(ProgramsConfig* config, std::string* problem) {
  auto loaded = LoadPrograms(*config);
  if (loaded.ok() || !config->free_hook) return loaded;
  *problem =
      std::string("no hook at ") + config->free_hook->function + ": " + loaded.error().message;
  config->free_hook.reset();
  return LoadPrograms(*config);
}

}  // namespace

Result<std::unique_ptr<SlotAttribution>> SlotAttribution::Create(
    const SlotAttributionConfig& config) {
  std::unique_ptr<SlotAttribution> attribution(new SlotAttribution);
  ProgramsConfig wanted{config.device_major, config.device_minor,
                        static_cast<std::uint32_t>(config.slots), std::nullopt};
  if (config.free_notifications) {
    auto hook = RunningKernelFreeHook();
    if (hook.ok()) wanted.free_hook = hook.value();
    if (!hook.ok()) attribution->problem_ = "no hook: " + hook.error().message;
  }
  attribution->pins_ = PinPath(config.pin_directory, wanted);
  auto pinned = attribution->pins_.empty() ? std::nullopt : OpenPinned(attribution->pins_, wanted);
  if (pinned) {
    attribution->programs_ = std::move(*pinned);
  } else {
    // Remove old programs first, else both would count.
    if (!attribution->pins_.empty()) Unpin(attribution->pins_);
    auto loaded = LoadAsFarAsPossible(&wanted, &attribution->problem_);
    if (!loaded.ok()) return loaded.error();
    attribution->programs_ = std::move(loaded.value());
  }
  if (wanted.free_hook) attribution->free_hook_ = wanted.free_hook->function;
  auto mapped = attribution->MapShared(config.slots);
  if (!mapped.ok()) return mapped.error();
  if (!pinned && !attribution->pins_.empty()) {
    auto made = Pin(attribution->programs_, attribution->pins_);
    if (!made.ok()) {
      attribution->pins_.clear();
      if (attribution->problem_.empty()) {
        attribution->problem_ =
            "pins failed, so a restart will lose attribution: " + made.error().message;
      }
    }
  }
  return attribution;
}

Outcome SlotAttribution::MapShared(std::uint64_t slots) {
  const LibbpfWarning warning;
  slots_ = slots;
  dirty_words_ = (slots + kBitsPerWord - 1) / kBitsPerWord;
  const auto map = [](const FileDescriptor& fd, std::uint64_t words, int protection) {
    return mmap(nullptr, words * sizeof(std::uint64_t), protection, MAP_SHARED, fd.get(), 0);
  };
  void* const words = map(programs_.slots, slots_, PROT_READ);
  if (words == MAP_FAILED) return Error{warning.Explain("failed to map the slot words", errno)};
  words_ = static_cast<const std::atomic<tier::SlotWord>*>(words);
  if (free_hook_.empty()) return std::monostate{};
  void* const dirty = map(programs_.dirty, dirty_words_, PROT_READ | PROT_WRITE);
  if (dirty == MAP_FAILED) return Error{warning.Explain("failed to map the dirty bits", errno)};
  dirty_ = static_cast<std::atomic<std::uint64_t>*>(dirty);
  ring_ = ring_buffer__new(programs_.events.get(), &TakeEvent, this, nullptr);
  if (ring_ == nullptr) return Error{warning.Explain("failed to map the ring of events", errno)};
  stop_event_ = FileDescriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_event_.open()) return Error{std::string("eventfd: ") + std::strerror(errno)};
  return std::monostate{};
}

SlotAttribution::~SlotAttribution() {
  StopNotifying();
  if (!pins_.empty()) Unpin(pins_);
  ring_buffer__free(ring_);
  const auto unmap = [](const void* address, std::uint64_t words) {
    if (address != nullptr) munmap(const_cast<void*>(address), words * sizeof(std::uint64_t));
  };
  unmap(words_, slots_);
  unmap(dirty_, dirty_words_);
}

void SlotAttribution::StartNotifying(OnSlotFree on_slot_free) {
  if (free_hook_.empty()) return;
  on_slot_free_ = std::move(on_slot_free);
  thread_ = StartThread("fs-slot-free", [this] { Run(); });
}

void SlotAttribution::StopNotifying() {
  if (!thread_.joinable()) return;
  stopping_.store(true);
  eventfd_write(stop_event_.get(), 1);
  thread_.join();
}

void SlotAttribution::Run() {
  std::array<pollfd, 2> waiting{
      {{ring_buffer__epoll_fd(ring_), POLLIN, 0}, {stop_event_.get(), POLLIN, 0}}};
  constexpr std::uint64_t kSweepPeriodNs = std::uint64_t{kSweepPeriodMs} * 1'000'000;
  std::uint64_t next_sweep_ns = 0;
  while (!stopping_.load()) {
    if (NowNs() >= next_sweep_ns) {
      Sweep();
      next_sweep_ns = NowNs() + kSweepPeriodNs;
    }
    poll(waiting.data(), waiting.size(), kSweepPeriodMs);
    ring_buffer__consume(ring_);
  }
}

void SlotAttribution::Sweep() {
  for (std::uint64_t word = 0; word < dirty_words_ && !stopping_.load(); ++word) {
    // Reading first leaves clean cache lines shared with the kernel's processors.
    if (dirty_[word].load(std::memory_order_relaxed) != 0) TakeDirtyWord(word, false);
  }
}

int SlotAttribution::TakeEvent(void* self, void* event, std::size_t /*bytes*/) {
  auto* const attribution = static_cast<SlotAttribution*>(self);
  const auto* const freed = static_cast<const SlotFreeEvent*>(event);
  const bool prompt = NowNs() - freed->marked_ns <= kPromptNs;
  attribution->TakeDirtyWord(freed->dirty_word, prompt);
  return attribution->stopping_.load() ? -ECANCELED : 0;
}

void SlotAttribution::TakeDirtyWord(std::uint64_t dirty_word, bool prompt) {
  // Clear the bits before the words are read: a later free sets its bit again. The exchange pairs
  // with the kernel's fetch-or, which follows its change of the word.
  std::uint64_t bits = dirty_[dirty_word].exchange(0, std::memory_order_acq_rel);
  const auto slots = static_cast<std::uint64_t>(std::popcount(bits));
  notified_.fetch_add(slots, std::memory_order_relaxed);
  if (!prompt) notified_late_.fetch_add(slots, std::memory_order_relaxed);
  while (bits != 0) {
    const auto bit = static_cast<std::uint64_t>(std::countr_zero(bits));
    on_slot_free_(static_cast<tier::SlotIndex>(dirty_word * kBitsPerWord + bit));
    bits &= bits - 1;
  }
}

AttributionCounters SlotAttribution::counters() const {
  const int processors = libbpf_num_possible_cpus();
  std::vector<std::uint64_t> values(processors > 0 ? static_cast<std::size_t>(processors) : 0);
  const auto sum = [&](std::uint32_t counter) {
    std::uint64_t total = 0;
    if (bpf_map_lookup_elem(programs_.counters.get(), &counter, values.data()) != 0) return total;
    for (const std::uint64_t value : values) total += value;
    return total;
  };
  return {sum(kAttributionBios),
          sum(kAttributionPages),
          sum(kAttributionUnattributed),
          sum(kAttributionFreed),
          sum(kAttributionEvents),
          sum(kAttributionRingFull),
          notified_.load(std::memory_order_relaxed),
          notified_late_.load(std::memory_order_relaxed)};
}

}  // namespace farswap::bpf
