// Threads that answer fetches have the memory for pages and bundles from the start, and do not ask
// for it while the kernel, short of memory, waits for the answer: seen by standing in for mmap(2).
// Sanitizers have one of their own.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "remote_borrowers.h"
#include "remote_fake_store.h"
#include "sanitized.h"
#include "tier/bundle.h"

#ifndef FARSWAP_SANITIZED
namespace {
thread_local int mappings = 0;
}

extern "C" [[gnu::visibility("default")]] void* mmap(void* address, std::size_t bytes,
                                                     int protection, int flags, int fd,
                                                     off_t offset) noexcept {
  ++mappings;
  return reinterpret_cast<void*>(syscall(SYS_mmap, address, bytes, protection, flags, fd, offset));
}

namespace farswap::remote {
namespace {

// What a thread maps for pages and bundles when it needs them.
int MappedOnThisThread() {
  const int before = mappings;
  EXPECT_TRUE(tier::PrepareThreadForBundles().ok());
  return mappings - before;
}

class NeedyFetch final : public tier::RemoteFetch {
 public:
  explicit NeedyFetch(tier::SlotIndex slot) {
    keys[0] = slot;
    count = 1;
  }
  tier::Verdict OnObject(std::size_t, const tier::Object&) override {
    result = tier::GetResult::kFound;
    mapped = MappedOnThisThread();
    return tier::Verdict::kAccept;
  }
  void OnMissing(std::size_t, tier::GetResult why) override {
    result = why;
    mapped = MappedOnThisThread();
  }
  void OnGetDone() override { done.Set(); }

  tier::GetResult result = tier::GetResult::kUnavailable;
  int mapped = 0;
  Waiter<> done;
};

TEST(AnswerMemory, IsThereBeforeTheFirstAnswer) {
  std::thread([] { EXPECT_GT(MappedOnThisThread(), 0); }).join();
  const FakeStore store;
  const auto cluster = NewCluster(TestConfig({store.address()}));
  ASSERT_TRUE(Connected(*cluster));
  ASSERT_EQ(PutOne(*cluster, 0, 1), tier::PutResult::kAcked);
  NeedyFetch page(0);
  NeedyFetch nowhere(tier::kShardSlots);  // answered by another thread
  for (NeedyFetch* const fetch : {&page, &nowhere}) {
    cluster->Get(fetch);
    ASSERT_TRUE(fetch->done.Wait());
    EXPECT_EQ(fetch->mapped, 0);
  }
  EXPECT_EQ(page.result, tier::GetResult::kFound);
  EXPECT_EQ(nowhere.result, tier::GetResult::kNotFound);
}

}  // namespace
}  // namespace farswap::remote
#endif
