// A swap device for a real kernel, with nothing of Python: binds an nbd device by ioctl(2) and
// serves it from a real tier that has slot words. Run by the tests in virtual machines, which swap
// on it and break it on purpose.
//
//   slot_server --device /dev/nbd0 --mib N [--pool-mib N] [--rule safe|naive|none]
//               [--slow-us N] [--owner SEED:CGROUP]...
//
// Every page that is stored is compared with its slot's word: a page stamped with SEED (see
// tests/system/stamped_pages.h) belongs to the cgroup of that id. --rule says what happens when the
// kernel is said to have freed a slot: "safe" asks the tier, as the product does; "naive" forgets
// the slot's current page, which loses pages; "none" asks for no notice.
// --slow-us is what each notice waits before it is looked at, as it would in a busy daemon.
//
// Prints "ready" when the device is there; one JSON object at each SIGUSR1; ends at SIGTERM.
#include <fcntl.h>
#include <getopt.h>
#include <linux/nbd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "base/thread.h"
#include "bpf/slot_attribution.h"
#include "memory_remote.h"
#include "nbd/connection_set.h"
#include "tier/tier.h"

namespace farswap {
namespace {

constexpr std::uint64_t kPagesPerMib = (std::uint64_t{1} << 20) / tier::kPageBytes;

enum class Rule { kSafe, kNaive, kNone };

struct Options {
  std::string device;
  std::uint64_t slots = 0;
  std::uint64_t pool_mib = 16;
  Rule rule = Rule::kSafe;
  useconds_t slow_us = 0;
  std::map<std::uint64_t, tier::CgroupId> owners;  // by seed
};

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "slot_server: %s\n", what.c_str());
  std::exit(2);
}

/// The tier, with a look at each page and its slot's word as it comes in.
class StampChecker final : public tier::PageDevice {
 public:
  StampChecker(tier::Tier* tier, std::map<std::uint64_t, tier::CgroupId> owners)
      : tier_(tier), owners_(std::move(owners)) {}

  void UseSlotWords(const std::atomic<tier::SlotWord>* words) { words_ = words; }

  tier::IoStatus TryStore(tier::SlotIndex slot, const std::byte* page,
                          tier::PendingStore* store) override {
    const tier::IoStatus status = tier_->TryStore(slot, page, store);
    const bool nothing_done = status == tier::IoStatus::kPending && store == nullptr;
    if (!nothing_done) Check(slot, page);
    return status;
  }
  bool CancelStore(tier::PendingStore* store) override { return tier_->CancelStore(store); }
  LoadResult Load(tier::SlotIndex slot, std::byte* out) override { return tier_->Load(slot, out); }
  void Fetch(tier::PageFetch* fetch) override { tier_->Fetch(fetch); }
  void Invalidate(tier::SlotIndex first, std::uint64_t count) override {
    tier_->Invalidate(first, count);
  }
  std::uint64_t slots() const override { return tier_->slots(); }

  std::atomic<std::uint64_t> right{0};
  std::atomic<std::uint64_t> crossed{0};
  std::atomic<std::uint64_t> unknown{0};  // stamped, and the word names no cgroup

 private:
  void Check(tier::SlotIndex slot, const std::byte* page) {
    constexpr std::uint64_t kStamp = 0x66617273776f0000;
    constexpr std::uint64_t kSeedMask = 0xffff;
    constexpr std::size_t kStampOffset = 3 * sizeof(std::uint64_t);
    std::uint64_t stamp = 0;
    std::memcpy(&stamp, page + kStampOffset, sizeof(stamp));
    if (words_ == nullptr || (stamp & ~kSeedMask) != kStamp) return;
    const auto owner = owners_.find(stamp & kSeedMask);
    if (owner == owners_.end()) return;
    const tier::CgroupId shown = tier::CgroupOf(words_[slot].load(std::memory_order_acquire));
    auto& tally = shown == owner->second          ? right
                  : shown == tier::kUnknownCgroup ? unknown
                                                  : crossed;
    ++tally;
  }

  tier::Tier* const tier_;
  const std::map<std::uint64_t, tier::CgroupId> owners_;
  const std::atomic<tier::SlotWord>* words_ = nullptr;
};

/// An nbd device of the kernel, bound to one end of a socketpair.
class KernelDevice {
 public:
  explicit KernelDevice(const std::string& path) : fd_(open(path.c_str(), O_RDWR | O_CLOEXEC)) {
    struct stat found {};
    if (!fd_.open() || fstat(fd_.get(), &found) != 0) Die(path + ": " + std::strerror(errno));
    number_ = found.st_rdev;
  }
  ~KernelDevice() {
    ioctl(fd_.get(), NBD_DISCONNECT);
    if (runner_.joinable()) runner_.join();
  }

  dev_t number() const { return number_; }

  /// Returns our end.
  int Bind(std::uint64_t pages) {
    std::array<int, 2> ends{};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) Die("socketpair");
    kernels_end_ = FileDescriptor(ends[1]);
    Set(NBD_SET_BLKSIZE, tier::kPageBytes);
    Set(NBD_SET_SIZE_BLOCKS, pages);
    Set(NBD_SET_FLAGS, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_TRIM);
    Set(NBD_SET_SOCK, static_cast<unsigned long>(ends[1]));
    runner_ = StartThread("nbd-do-it", [this] { ioctl(fd_.get(), NBD_DO_IT); });
    return ends[0];
  }

 private:
  void Set(unsigned long request, unsigned long value) {
    if (ioctl(fd_.get(), request, value) != 0) Die(std::string("nbd: ") + std::strerror(errno));
  }

  FileDescriptor fd_;
  FileDescriptor kernels_end_;
  dev_t number_ = 0;
  std::thread runner_;
};

Options Parse(int argc, char** argv) {
  static const std::array<option, 7> kLongOptions{{
      {"device", required_argument, nullptr, 'd'},
      {"mib", required_argument, nullptr, 'n'},
      {"pool-mib", required_argument, nullptr, 'p'},
      {"rule", required_argument, nullptr, 'r'},
      {"slow-us", required_argument, nullptr, 's'},
      {"owner", required_argument, nullptr, 'o'},
      {nullptr, 0, nullptr, 0},
  }};
  const std::map<std::string, Rule> rules{
      {"safe", Rule::kSafe}, {"naive", Rule::kNaive}, {"none", Rule::kNone}};
  Options options;
  int choice = 0;
  while ((choice = getopt_long(argc, argv, "", kLongOptions.data(), nullptr)) != -1) {
    const std::string value = optarg == nullptr ? "" : optarg;
    if (choice == 'd') options.device = value;
    if (choice == 'n') options.slots = std::stoul(value) * kPagesPerMib;
    if (choice == 'p') options.pool_mib = std::stoul(value);
    if (choice == 'r') options.rule = rules.at(value);
    if (choice == 's') options.slow_us = static_cast<useconds_t>(std::stoul(value));
    if (choice == 'o') {
      const std::size_t colon = value.find(':');
      options.owners[std::stoul(value)] =
          static_cast<tier::CgroupId>(std::stoul(value.substr(colon + 1)));
    }
  }
  if (options.device.empty() || options.slots == 0) Die("--device or --mib is missing");
  return options;
}

void Report(const tier::Tier& tier, const StampChecker& checker,
            const bpf::SlotAttribution& attribution) {
  const auto print = [](const char* name, std::uint64_t value) {
    std::printf("\"%s\": %llu, ", name, static_cast<unsigned long long>(value));
  };
  const tier::TierStats stats = tier.Stats();
  const bpf::AttributionCounters kernel = attribution.counters();
  std::printf("{");
  print("stamped_right", checker.right);
  print("stamped_crossed", checker.crossed);
  print("stamped_unknown", checker.unknown);
  print("held_pages", stats.pages.held());
  print("remote_pages", stats.pages.remote);
  print("bios", kernel.bios);
  print("pages_written", kernel.pages);
  print("unattributed", kernel.unattributed);
  print("freed", kernel.freed);
  print("events", kernel.events);
  print("ring_full", kernel.ring_full);
  print("notified", kernel.notified);
  print("notified_late", kernel.notified_late);
  for (std::size_t i = 0; i < tier::kCounterCount; ++i) {
    print(tier::CounterName(static_cast<tier::Counter>(i)), stats.counters[i]);
  }
  std::printf("\"slots\": %llu}\n", static_cast<unsigned long long>(tier.slots()));
  std::fflush(stdout);
}

int Run(const Options& options) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  tier::MemoryRemote remote;
  tier::TierConfig config;
  config.slots = options.slots;
  config.pool_bytes_max = options.pool_mib << 20;
  auto tier = tier::Tier::Create(config, &remote);
  if (!tier.ok()) Die(tier.error().message);
  StampChecker checker(tier.value().get(), options.owners);
  nbd::ConnectionSet connections(&checker, options.slots * tier::kPageBytes);

  KernelDevice device(options.device);
  bpf::SlotAttributionConfig words;
  words.device_major = major(device.number());
  words.device_minor = minor(device.number());
  words.slots = options.slots;
  words.free_notifications = options.rule != Rule::kNone;
  auto attribution = bpf::SlotAttribution::Create(words);
  if (!attribution.ok()) Die(attribution.error().message);
  checker.UseSlotWords(attribution.value()->words());
  tier.value()->UseSlotWords(attribution.value()->words());
  attribution.value()->StartNotifying([&](tier::SlotIndex slot) {
    if (options.slow_us != 0) usleep(options.slow_us);
    if (options.rule == Rule::kSafe) return tier.value()->OnSlotFree(slot);
    tier.value()->Invalidate(slot, 1);
    return true;
  });
  if (!connections.Serve(device.Bind(options.slots), {}, "kernel").ok()) Die("no thread");
  std::printf("ready, hook \"%s\", problem \"%s\"\n", attribution.value()->free_hook().c_str(),
              attribution.value()->problem().c_str());
  std::fflush(stdout);

  int signal = 0;
  while (sigwait(&signals, &signal) == 0 && signal == SIGUSR1) {
    Report(*tier.value(), checker, *attribution.value());
  }
  attribution.value()->StopNotifying();
  tier.value()->UseSlotWords(nullptr);
  return 0;
}

}  // namespace
}  // namespace farswap

int main(int argc, char** argv) { return farswap::Run(farswap::Parse(argc, argv)); }
