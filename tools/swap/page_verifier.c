// page_verifier: fills memory with pages whose every byte follows from their index and
// generation, then reads them back over several passes, in random order unless it has to go
// --sequential, rewriting some on the way.
//
// Run in a memory cgroup smaller than its memory, it makes the kernel move pages to swap and back;
// any page that comes back other than it left is a wrong page. It does not depend on farswap: the
// expected bytes are computed, never stored, so that they cannot be swapped themselves.
//
// `waits_ms` are the pages whose touch took longer than 30 ms, up to a thousand.
//
// Prints one JSON object and exits 0 when every page was right, 1 when one was not, 2 on bad use.
//
//   page_verifier --mib N [--passes 2] [--rewrite-percent 25] [--seed 1] [--cgroup DIR]
//                 [--sequential] [--pause DIR]
//
// The pages are those of stamped_pages.h. --cgroup moves the program into a cgroup (v1 or v2)
// before it allocates.
#define _GNU_SOURCE
#include "stamped_pages.h"
#include "swapping_program.h"

enum { kReportedMismatches = 5, kWaitsMax = 1000 };

// Pages whose touch took this long; the first ones are reported.
static const double kLongWaitSeconds = 0.03;
static double waits[kWaitsMax];
static size_t wait_count = 0;

struct Options {
  unsigned long mib;
  unsigned long passes;
  unsigned long rewrite_percent;
  unsigned long seed;
  bool sequential;
  const char* cgroup;
  const char* pause;
};

struct Vmstat {
  long pages_in;
  long pages_out;
};

// Visits every index below `count` once: a full-period linear congruential generator over the next
// power of two, passing over what is too large.
struct Permutation {
  size_t count, mask, multiplier, increment, state;
};

static struct Permutation Permute(size_t count, uint64_t seed) {
  size_t size = 1;
  while (size < count) size <<= 1;
  struct Permutation order = {
      .count = count,
      .mask = size - 1,
      .multiplier = (Mix(seed) & ~(size_t)7) | 5,
      .increment = Mix(seed + 1) | 1,
      .state = Mix(seed + 2) & (size - 1),
  };
  return order;
}

static size_t Next(struct Permutation* order) {
  do {
    order->state = (order->state * order->multiplier + order->increment) & order->mask;
  } while (order->state >= order->count);
  return order->state;
}

static struct Vmstat ReadVmstat(void) {
  struct Vmstat stat = {-1, -1};
  FILE* file = fopen("/proc/vmstat", "r");
  if (file == NULL) return stat;
  char line[128];
  while (fgets(line, sizeof line, file) != NULL) {
    (void)sscanf(line, "pswpin %ld", &stat.pages_in);
    (void)sscanf(line, "pswpout %ld", &stat.pages_out);
  }
  fclose(file);
  return stat;
}

static void ReportMismatch(const uint64_t* expected, const uint64_t* found, size_t page,
                           unsigned pass, unsigned generation) {
  int word = 0;
  while (expected[word] == found[word]) ++word;
  fprintf(stderr,
          "page_verifier: pass %u page %zu generation %u word %d: expected %016llx found %016llx\n",
          pass, page, generation, word, (unsigned long long)expected[word],
          (unsigned long long)found[word]);
}

static void NoteWait(double began) {
  const double took = Seconds() - began;
  if (took > kLongWaitSeconds && wait_count < kWaitsMax) waits[wait_count++] = took;
}

// One pass over all pages; returns how many were wrong.
static size_t VerifyPass(const struct Options* options, size_t pages, uint64_t* memory,
                         unsigned char* generations, unsigned pass) {
  static uint64_t expected[kPageWords];
  struct Permutation order = Permute(pages, options->seed + pass);
  size_t wrong = 0;
  for (size_t i = 0; i < pages; ++i) {
    const size_t page = options->sequential ? i : Next(&order);
    uint64_t* words = memory + page * kPageWords;
    RenderPage(expected, options->seed, page, generations[page]);
    const double began = Seconds();
    if (memcmp(expected, words, kPageBytes) != 0 && wrong++ < kReportedMismatches)
      ReportMismatch(expected, words, page, pass, generations[page]);
    if (Mix(page ^ Mix(pass)) % 100 < options->rewrite_percent)
      RenderPage(words, options->seed, page, ++generations[page]);
    NoteWait(began);
  }
  return wrong;
}

static int Run(const struct Options* options) {
  if (!EnterCgroup(options->cgroup)) return 2;
  const size_t pages = options->mib * kPagesPerMib;
  unsigned char* generations = calloc(pages, 1);
  uint64_t* memory = MapPages(pages);
  if (generations == NULL || memory == NULL) return 2;
  (void)madvise(memory, pages * kPageBytes, MADV_NOHUGEPAGE);

  const struct Vmstat before = ReadVmstat();
  const double started = Seconds();
  for (size_t page = 0; page < pages; ++page) {
    const double began = Seconds();
    RenderPage(memory + page * kPageWords, options->seed, page, 0);
    NoteWait(began);
  }
  const double filled = Seconds();
  if (options->pause != NULL) {
    char seed[32];
    snprintf(seed, sizeof seed, "%lu", options->seed);
    WaitToGoOn(options->pause, seed);
  }
  size_t wrong = 0;
  for (unsigned pass = 1; pass <= options->passes; ++pass)
    wrong += VerifyPass(options, pages, memory, generations, pass);
  const double verified = Seconds();
  const struct Vmstat after = ReadVmstat();

  printf(
      "{\"pages\": %zu, \"passes\": %lu, \"wrong_pages\": %zu, \"swapped_out\": %ld, "
      "\"swapped_in\": %ld, \"fill_seconds\": %.3f, \"verify_seconds\": %.3f, \"waits_ms\": [",
      pages, options->passes, wrong, after.pages_out - before.pages_out,
      after.pages_in - before.pages_in, filled - started, verified - filled);
  for (size_t i = 0; i < wait_count; ++i) printf("%s%.1f", i == 0 ? "" : ", ", waits[i] * 1e3);
  printf("]}\n");
  return wrong == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
  struct Options options = {.passes = 2, .rewrite_percent = 25, .seed = 1};
  const struct Option known[] = {
      {"mib", .number = &options.mib},
      {"passes", .number = &options.passes},
      {"rewrite-percent", .number = &options.rewrite_percent},
      {"seed", .number = &options.seed},
      {"cgroup", .text = &options.cgroup},
      {"sequential", .flag = &options.sequential},
      {"pause", .text = &options.pause},
      {NULL},
  };
  if (!ReadOptions(argc, argv, known)) return 2;
  if (options.mib == 0 || options.passes > 250) {
    fprintf(stderr, "page_verifier: --mib is missing, or more than 250 passes\n");
    return 2;
  }
  return Run(&options);
}
