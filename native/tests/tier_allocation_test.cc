// The store path calls no allocator, with any compressor, and waits for no thread that does:
// seen by standing in for the allocator of the whole test program. Sanitizers bring an allocator of
// their own.
#include <gtest/gtest.h>
#include <zstd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <thread>

#include "sanitized.h"
#include "tier/codec.h"
#include "tier_fixture.h"

#ifndef FARSWAP_SANITIZED
namespace {
thread_local std::uint64_t allocations = 0;
std::atomic<void (*)()> on_allocation{nullptr};

void Allocating() {
  ++allocations;
  if (auto* const callback = on_allocation.load()) callback();
}
}  // namespace

// glibc's own names for its allocator.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

[[gnu::visibility("default")]] void* malloc(std::size_t bytes) {
  Allocating();
  return __libc_malloc(bytes);
}
[[gnu::visibility("default")]] void* calloc(std::size_t count, std::size_t bytes) {
  Allocating();
  return __libc_calloc(count, bytes);
}
[[gnu::visibility("default")]] void* realloc(void* memory, std::size_t bytes) {
  Allocating();
  return __libc_realloc(memory, bytes);
}
[[gnu::visibility("default")]] void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
  Allocating();
  return __libc_memalign(alignment, bytes);
}
}

namespace farswap::tier {
namespace {

class Allocation : public TierFixture {
 protected:
  static constexpr SlotIndex kSlots = 400;

  // What a thread of a connection does, on a thread that has done nothing else.
  template <typename Work>
  static std::uint64_t AllocationsOf(Work work) {
    std::uint64_t counted = 0;
    std::thread([&] {
      ASSERT_TRUE(PrepareThreadForPages().ok());
      const std::uint64_t before = allocations;
      work();
      counted = allocations - before;
    }).join();
    return counted;
  }
};

TEST_F(Allocation, IsCountedInsideOfTheCompressorsLibraries) {
  EXPECT_GT(AllocationsOf([] { ZSTD_freeCCtx(ZSTD_createCCtx()); }), 0u);
}

TEST_F(Allocation, StoresAndLoadsOfTheTierNeedNone) {
  Start();
  const std::uint64_t counted = AllocationsOf([this] {
    Page page;
    for (SlotIndex slot = 0; slot < kSlots; ++slot) {
      page = MakePage(slot, 1);
      ASSERT_EQ(StoreWait(*tier_, slot, page.data()), IoStatus::kOk);
      ASSERT_EQ(tier_->Load(slot, page.data()), Tier::LoadResult::kDone);
    }
  });
  EXPECT_EQ(counted, 0u);
}

TEST_F(Allocation, AnotherCompressorNeedsNone) {
  const std::uint64_t counted = AllocationsOf([] {
    Page page;
    Page back;
    for (SlotIndex slot = 0; slot < kSlots; ++slot) {
      page = MakePage(slot, 1);
      const int level = 1 + static_cast<int>(slot) % Compressor::kZstdLevelMax;
      for (const Compressor compressor :
           {Compressor{Codec::kLz4, level}, Compressor{Codec::kZstd, level}}) {
        const Compressed compressed = CompressPage(page.data(), compressor);
        ASSERT_TRUE(DecompressPage(compressed.codec, compressed.bytes, back.data()));
      }
      Recompress(Codec::kRaw, page, level);
    }
  });
  EXPECT_EQ(counted, 0u);
}

// While another thread allocates, and so may be waiting for memory that the kernel has to swap out
// first, a thread does what stores do.
class StoresMeanwhile {
 public:
  explicit StoresMeanwhile(std::function<void()> store)
      : store_(std::move(store)), thread_([this] { Run(); }) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ready_; });
    present_ = this;
    on_allocation = [] { present_->AwaitOne(); };
  }
  ~StoresMeanwhile() {
    on_allocation = nullptr;
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }
  /// How often, and whether it always could.
  int stored() const { return stored_; }
  bool stuck() const { return stuck_; }

 private:
  void Run() {
    waiting_ = true;  // its own allocations are none of others
    std::unique_lock lock(mutex_);
    ready_ = true;
    changed_.notify_all();
    for (;; changed_.notify_all()) {
      changed_.wait(lock, [this] { return asked_ > stored_ || stopping_; });
      if (stopping_) return;
      lock.unlock();
      store_();
      lock.lock();
      ++stored_;
    }
  }
  void AwaitOne() {
    if (std::exchange(waiting_, true)) return;
    {
      std::unique_lock lock(mutex_);
      const int wanted = ++asked_;
      changed_.notify_all();
      if (!stuck_ && !changed_.wait_for(lock, kForever, [&] { return stored_ >= wanted; })) {
        stuck_ = true;
      }
    }
    waiting_ = false;
  }

  static constexpr std::chrono::seconds kForever{60};
  static inline thread_local bool waiting_ = false;
  static inline StoresMeanwhile* present_ = nullptr;
  const std::function<void()> store_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ready_ = false;
  bool stopping_ = false;
  bool stuck_ = false;
  int asked_ = 0;
  int stored_ = 0;
  std::thread thread_;  // last
};

TEST_F(Allocation, NobodyAllocatesWithALockThatStoresTake) {
  constexpr SlotIndex kMany = 3000, kFirst = 6000;
  StartWithWords();
  for (SlotIndex slot = 0; slot < kMany; ++slot) {
    if (tier_->Stats().pool_entry_bytes < std::uint64_t{3} << 20) {
      StoreKind(slot, 1, PageKind::kCompressible);
    }
    if (slot < 100) tier_->PlaceCgroup(1000 + slot, kUnknownCgroup);
  }
  SlotIndex next = 0;
  const Page same_filled = MakePage(0, 1, PageKind::kSameFilled);
  const Page compressible = MakePage(kFirst, 1, PageKind::kCompressible);
  {
    StoresMeanwhile stores([&] {
      // Of a cgroup that is new; of a page that may find no room; waking the shrinker.
      ++next;
      KernelWrites(kFirst, next + 10000);
      tier_->TryStore(kFirst, same_filled.data(), nullptr);
      tier_->TryStore(kFirst + 1, compressible.data(), nullptr);
      tier_->ManualWritebackProgress();
    });
    EXPECT_TRUE(tier_->SetPacking(true).ok());
    tier_->CgroupStats();
    for (SlotIndex slot = 0; slot < 100; ++slot) tier_->RemoveCgroup(1000 + slot);
    for (int i = 0; i < 2; ++i) WriteBack(100);  // the sweep comes behind the first one's
    remote_.SetWritable(false);
    for (SlotIndex slot = 0; slot < kMany; slot += 2) tier_->Invalidate(slot, 1);
    for (SlotIndex slot = kFirst + 2; Count(Counter::compactions) == 0; ++slot) {
      ASSERT_EQ(StoreKind(slot, 1, PageKind::kRandom), IoStatus::kOk);
    }
    EXPECT_GT(stores.stored(), 10);
    EXPECT_FALSE(stores.stuck());
  }
}

}  // namespace
}  // namespace farswap::tier
#endif
