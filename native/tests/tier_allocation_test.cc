// The store path calls no allocator, whatever it compresses with: counted by standing in for the
// allocator of the whole test program. Sanitizers bring an allocator of their own.
#include <gtest/gtest.h>
#include <zstd.h>

#include <cstdlib>
#include <thread>

#include "tier/codec.h"
#include "tier_fixture.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FARSWAP_SANITIZED
#endif
#endif

#ifndef FARSWAP_SANITIZED
namespace {
thread_local std::uint64_t allocations = 0;
}

// glibc's own names for its allocator.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

[[gnu::visibility("default")]] void* malloc(std::size_t bytes) {
  ++allocations;
  return __libc_malloc(bytes);
}
[[gnu::visibility("default")]] void* calloc(std::size_t count, std::size_t bytes) {
  ++allocations;
  return __libc_calloc(count, bytes);
}
[[gnu::visibility("default")]] void* realloc(void* memory, std::size_t bytes) {
  ++allocations;
  return __libc_realloc(memory, bytes);
}
[[gnu::visibility("default")]] void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
  ++allocations;
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
      ASSERT_EQ(tier_->Store(slot, page.data()), IoStatus::kOk);
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

}  // namespace
}  // namespace farswap::tier
#endif
