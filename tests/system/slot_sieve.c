// slot_sieve: has its pages paged out, gives up all but every eighth of them, then all of them.
//
// What is given up is scattered: no run of free swap slots is long enough for the kernel to discard
// it. After the first two steps it makes --steps/paged_out and --steps/sieved, and waits for a file
// of that name with .go, so that somebody can look at the device. The kept pages are verified.
//
// Prints one JSON object and exits 0 when every page was right, 1 when one was not, 2 on bad use.
//
//   slot_sieve --mib N --steps DIR [--seed 1] [--cgroup DIR]
#define _GNU_SOURCE
#include <getopt.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "stamped_pages.h"

enum { kKeepEach = 8 };

struct Options {
  size_t pages;
  uint64_t seed;
  const char* steps;
  const char* cgroup;
};

static int Run(const struct Options* options) {
  if (options->cgroup != NULL && !EnterCgroup(options->cgroup)) return 2;
  static uint64_t expected[kPageWords];
  uint64_t* memory = mmap(NULL, options->pages * kPageBytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return 2;
  (void)madvise(memory, options->pages * kPageBytes, MADV_NOHUGEPAGE);
  for (size_t page = 0; page < options->pages; ++page)
    RenderStampedPage(memory + page * kPageWords, options->seed, page, 1);
  (void)madvise(memory, options->pages * kPageBytes, MADV_PAGEOUT);
  WaitToGoOn(options->steps, "paged_out");
  for (size_t page = 0; page < options->pages; ++page) {
    if (page % kKeepEach != 0) (void)madvise(memory + page * kPageWords, kPageBytes, MADV_DONTNEED);
  }
  WaitToGoOn(options->steps, "sieved");
  size_t wrong = 0;
  for (size_t page = 0; page < options->pages; page += kKeepEach) {
    RenderStampedPage(expected, options->seed, page, 1);
    wrong += memcmp(expected, memory + page * kPageWords, kPageBytes) != 0;
  }
  printf("{\"pages\": %zu, \"given_up\": %zu, \"wrong_pages\": %zu}\n", options->pages,
         options->pages - (options->pages + kKeepEach - 1) / kKeepEach, wrong);
  return wrong != 0;
}

int main(int argc, char** argv) {
  static const struct option kLongOptions[] = {
      {"mib", required_argument, NULL, 'n'},
      {"steps", required_argument, NULL, 'd'},
      {"seed", required_argument, NULL, 's'},
      {"cgroup", required_argument, NULL, 'g'},
      {NULL, 0, NULL, 0},
  };
  struct Options options = {.seed = 1};
  int choice;
  while ((choice = getopt_long(argc, argv, "", kLongOptions, NULL)) != -1) {
    switch (choice) {
      case 'n':
        options.pages = strtoul(optarg, NULL, 10) * kPagesPerMib;
        break;
      case 'd':
        options.steps = optarg;
        break;
      case 's':
        options.seed = strtoull(optarg, NULL, 10);
        break;
      case 'g':
        options.cgroup = optarg;
        break;
      default:
        return 2;
    }
  }
  if (options.pages == 0 || options.steps == NULL) {
    fprintf(stderr, "slot_sieve: --mib or --steps is missing\n");
    return 2;
  }
  return Run(&options);
}
