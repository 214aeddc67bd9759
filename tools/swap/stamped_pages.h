// Pages for programs that verify what comes back from swap: every byte follows from a seed, the
// page's index and its generation, so that nothing needs to be remembered but the generation.
//
// The mix, in pages out of a hundred: 10 zero, 10 of one repeated word, 55 compressible (about 3:1
// with LZ4), 25 random. These two are stamped: such a page shows which program
// wrote it (the low 16 bits of its seed), and which page it is.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
  kPageBytes = 4096,
  kPageWords = kPageBytes / sizeof(uint64_t),
  kPagesPerMib = 256,
};

enum PageKind { kZeroPage, kSameFilledPage, kCompressiblePage, kRandomPage };

// Where the words are that say what a stamped page is.
enum { kIndexWord = 1, kGenerationWord = 2, kStampWord = 3 };
#define PAGE_STAMP 0x66617273776f0000u  // over the seed's low 16 bits
#define PAGE_STAMP_SEED 0xffffu

// SplitMix64, http://xoshiro.di.unimi.it/splitmix64.c: every input gives another, well mixed
// output.
static uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

static enum PageKind KindOfPage(uint64_t seed, uint64_t page) {
  const unsigned share = (unsigned)(Mix(seed ^ Mix(page)) % 100);
  return share < 10   ? kZeroPage
         : share < 20 ? kSameFilledPage
         : share < 75 ? kCompressiblePage
                      : kRandomPage;
}

static void RenderPageOfKind(uint64_t* words, enum PageKind kind, uint64_t seed, uint64_t page,
                             unsigned generation) {
  uint64_t state = Mix(Mix(seed ^ Mix(page)) + generation);
  if (kind == kZeroPage) {
    memset(words, 0, kPageBytes);
    return;
  }
  if (kind == kSameFilledPage) {
    for (int i = 0; i < kPageWords; ++i) words[i] = state;
    return;
  }
  const uint64_t filler = 0x2020202020200000 | (state & 0xffff);
  for (int i = 0; i < kPageWords; ++i) {
    const bool noise = kind == kRandomPage || i % 4 == 0;
    if (noise) state = Mix(state);
    words[i] = noise ? state : filler;
  }
  words[kIndexWord] = page;
  words[kGenerationWord] = generation;
  words[kStampWord] = PAGE_STAMP | (seed & PAGE_STAMP_SEED);
}

// The kind stays with the page; its bytes change with each generation.
static inline void RenderPage(uint64_t* words, uint64_t seed, uint64_t page, unsigned generation) {
  RenderPageOfKind(words, KindOfPage(seed, page), seed, page, generation);
}

// The same, but always a stamped page.
static inline void RenderStampedPage(uint64_t* words, uint64_t seed, uint64_t page,
                                     unsigned generation) {
  const enum PageKind kind = KindOfPage(seed, page);
  RenderPageOfKind(words, kind == kRandomPage ? kind : kCompressiblePage, seed, page, generation);
}
