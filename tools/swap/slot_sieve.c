// slot_sieve: has its pages paged out, gives up all but every eighth of them, then all of them.
//
// What is given up is scattered: no run of free swap slots is long enough for the kernel to discard
// it. After the first two steps it makes --steps/paged_out and --steps/sieved, and waits for a file
// of that name with .go, so that a test can read the device. The kept pages are verified.
//
// Prints one JSON object and exits 0 when every page was right, 1 when one was not, 2 on bad use.
//
//   slot_sieve --mib N --steps DIR [--seed 1] [--cgroup DIR]
#define _GNU_SOURCE
#include "stamped_pages.h"
#include "swapping_program.h"

enum { kKeepEach = 8 };

struct Options {
  unsigned long mib;
  unsigned long seed;
  const char* steps;
  const char* cgroup;
};

static int Run(const struct Options* options) {
  static uint64_t expected[kPageWords];
  const size_t pages = options->mib * kPagesPerMib;
  uint64_t* memory = EnterCgroup(options->cgroup) ? MapPages(pages) : NULL;
  if (memory == NULL) return 2;
  (void)madvise(memory, pages * kPageBytes, MADV_NOHUGEPAGE);
  for (size_t page = 0; page < pages; ++page)
    RenderStampedPage(memory + page * kPageWords, options->seed, page, 1);
  (void)madvise(memory, pages * kPageBytes, MADV_PAGEOUT);
  WaitToGoOn(options->steps, "paged_out");
  for (size_t page = 0; page < pages; ++page) {
    if (page % kKeepEach != 0) (void)madvise(memory + page * kPageWords, kPageBytes, MADV_DONTNEED);
  }
  WaitToGoOn(options->steps, "sieved");
  size_t wrong = 0;
  for (size_t page = 0; page < pages; page += kKeepEach) {
    RenderStampedPage(expected, options->seed, page, 1);
    wrong += memcmp(expected, memory + page * kPageWords, kPageBytes) != 0;
  }
  printf("{\"pages\": %zu, \"given_up\": %zu, \"wrong_pages\": %zu}\n", pages,
         pages - (pages + kKeepEach - 1) / kKeepEach, wrong);
  return wrong != 0;
}

int main(int argc, char** argv) {
  struct Options options = {.seed = 1};
  const struct Option known[] = {
      {"mib", .number = &options.mib},
      {"steps", .text = &options.steps},
      {"seed", .number = &options.seed},
      {"cgroup", .text = &options.cgroup},
      {NULL},
  };
  if (!ReadOptions(argc, argv, known)) return 2;
  if (options.mib == 0 || options.steps == NULL) {
    fprintf(stderr, "slot_sieve: --mib or --steps is missing\n");
    return 2;
  }
  return Run(&options);
}
