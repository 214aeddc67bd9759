// Attribution on the running kernel, as far as it lets us, for a device on which nothing swaps.
#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "bpf/slot_attribution.h"
#include "waiter.h"

namespace farswap::bpf {
namespace {

constexpr std::uint64_t kSlots = 10'000;

SlotAttributionConfig Config() {
  SlotAttributionConfig config;
  config.device_major = 4000;  // unused
  config.device_minor = 7;
  config.slots = kSlots;
  return config;
}

class SlotAttributionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root: it loads BPF programs";
    auto made = SlotAttribution::Create(Config());
    if (!made.ok()) GTEST_SKIP() << "this kernel: " << made.error().message;
  }
};

/// A bpffs of the test's own.
class Bpffs {
 public:
  Bpffs() {
    std::string name = testing::TempDir() + "farswap-XXXXXX";
    path_ = mkdtemp(name.data());
    mounted_ = mount("none", path_.c_str(), "bpf", 0, nullptr) == 0;
  }
  ~Bpffs() {
    if (mounted_) umount(path_.c_str());
    rmdir(path_.c_str());
  }
  bool mounted() const { return mounted_; }
  std::string pins() const { return path_ + "/farswap"; }
  std::string pins_of_device() const { return pins() + "/4000-7"; }

 private:
  std::string path_;
  bool mounted_ = false;
};

std::uint32_t PinnedMap(const std::string& path) {
  const FileDescriptor map(bpf_obj_get(path.c_str()));
  bpf_map_info info{};
  __u32 length = sizeof(info);
  return bpf_obj_get_info_by_fd(map.get(), &info, &length) == 0 ? info.id : 0;
}

/// A daemon that dies with its pins in place; true once it is dead.
bool StartAndDie(const SlotAttributionConfig& config) {
  const pid_t daemon = fork();
  if (daemon == 0) _exit(SlotAttribution::Create(config).ok() ? 0 : 1);
  int status = -1;
  waitpid(daemon, &status, 0);
  return status == 0;
}

TEST_F(SlotAttributionTest, WordsOfAnUnusedDeviceAreZero) {
  auto made = SlotAttribution::Create(Config());
  ASSERT_TRUE(made.ok()) << made.error().message;
  for (std::uint64_t slot = 0; slot < kSlots; ++slot) {
    ASSERT_EQ(made.value()->words()[slot].load(), 0u);
  }
  EXPECT_EQ(made.value()->counters().bios, 0u);
}

TEST_F(SlotAttributionTest, RefusedHookIsAProblemAndAttributionStays) {
  auto made = SlotAttribution::Create(Config());
  ASSERT_TRUE(made.ok()) << made.error().message;
  // The kernel either allows the hook, or the problem says why not.
  EXPECT_EQ(made.value()->free_hook().empty(), !made.value()->problem().empty())
      << made.value()->problem();
  std::cout << "free hook: \"" << made.value()->free_hook() << "\", problem: \""
            << made.value()->problem() << "\"\n";
}

TEST_F(SlotAttributionTest, UnwantedHookIsNoProblem) {
  SlotAttributionConfig config = Config();
  config.free_notifications = false;
  auto made = SlotAttribution::Create(config);
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_EQ(made.value()->free_hook(), "");
  EXPECT_EQ(made.value()->problem(), "");
}

TEST_F(SlotAttributionTest, NotificationStartsAndStops) {
  auto made = SlotAttribution::Create(Config());
  ASSERT_TRUE(made.ok()) << made.error().message;
  made.value()->StartNotifying([](tier::SlotIndex) { return true; });
  made.value()->StopNotifying();
  made.value()->StopNotifying();
  EXPECT_EQ(made.value()->counters().notified, 0u);
}

TEST_F(SlotAttributionTest, PinsOutliveADeadDaemonAndAreTakenOver) {
  const Bpffs bpffs;
  if (!bpffs.mounted()) GTEST_SKIP() << "needs to mount a bpffs";
  SlotAttributionConfig config = Config();
  config.pin_directory = bpffs.pins();
  config.free_notifications = false;
  ASSERT_TRUE(StartAndDie(config));
  const std::uint32_t left = PinnedMap(bpffs.pins_of_device() + "/slots");
  ASSERT_NE(left, 0u);
  {
    auto made = SlotAttribution::Create(config);
    ASSERT_TRUE(made.ok()) << made.error().message;
    EXPECT_EQ(PinnedMap(bpffs.pins_of_device() + "/slots"), left);
    EXPECT_EQ(made.value()->words()[kSlots - 1].load(), 0u);
  }
  EXPECT_FALSE(std::filesystem::exists(bpffs.pins_of_device()));
}

TEST_F(SlotAttributionTest, PinsOfAnotherSizeAreReplaced) {
  const Bpffs bpffs;
  if (!bpffs.mounted()) GTEST_SKIP() << "needs to mount a bpffs";
  SlotAttributionConfig config = Config();
  config.pin_directory = bpffs.pins();
  ASSERT_TRUE(StartAndDie(config));
  const std::uint32_t left = PinnedMap(bpffs.pins_of_device() + "/slots");
  config.slots = kSlots * 2;
  auto made = SlotAttribution::Create(config);
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_NE(PinnedMap(bpffs.pins_of_device() + "/slots"), left);
  EXPECT_EQ(made.value()->words()[2 * kSlots - 1].load(), 0u);
}

TEST_F(SlotAttributionTest, SweepFindsSlotsWhoseEventWasLost) {
  const Bpffs bpffs;
  if (!bpffs.mounted()) GTEST_SKIP() << "needs to mount a bpffs";
  SlotAttributionConfig config = Config();
  config.pin_directory = bpffs.pins();
  auto made = SlotAttribution::Create(config);
  ASSERT_TRUE(made.ok()) << made.error().message;
  if (made.value()->free_hook().empty()) GTEST_SKIP() << made.value()->problem();
  Waiter<tier::SlotIndex> freed;
  made.value()->StartNotifying([&](tier::SlotIndex slot) {
    freed.Set(slot);
    return false;
  });
  // The bit of a free, without its event.
  const FileDescriptor dirty(bpf_obj_get((bpffs.pins_of_device() + "/dirty").c_str()));
  const std::uint32_t word = 5;
  const std::uint64_t bits = std::uint64_t{1} << 3;
  ASSERT_EQ(bpf_map_update_elem(dirty.get(), &word, &bits, BPF_ANY), 0);
  EXPECT_EQ(freed.Wait(), 5u * 64 + 3);
  made.value()->StopNotifying();
  EXPECT_EQ(made.value()->counters().notified_late, 1u);
}

TEST_F(SlotAttributionTest, DirectoryOutsideABpffsMeansNoPins) {
  SlotAttributionConfig config = Config();
  config.pin_directory = testing::TempDir() + "none";
  auto made = SlotAttribution::Create(config);
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_FALSE(std::filesystem::exists(config.pin_directory));
}

}  // namespace
}  // namespace farswap::bpf
