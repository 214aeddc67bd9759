// slot_churn: takes and gives up swap slots as fast as it can, at random, and verifies every page.
//
// Each process owns pages and, until its time is over, takes a run of up to 64 of them and rewrites
// it and has it paged out; or verifies it; or gives it up; or forks a child that verifies it while
// the parent rewrites it, so that pages share slots. So a slot is freed and used again, by any
// program, within moments: a server that drops a page too late drops another program's.
//
// Prints one JSON object and exits 0 when every page was right, 1 when one was not, 2 on bad use.
//
//   slot_churn --mib N [--seconds 20] [--processes 2] [--seed 1] [--cgroup DIR]
//
// --mib is of each process. The pages are stamped with the seed.
#define _GNU_SOURCE
#include <stdatomic.h>
#include <sys/wait.h>

#include "stamped_pages.h"
#include "swapping_program.h"

enum { kRunMax = 64, kReportedMismatches = 5 };
// Where an action's share of the hundred ends; the rest forks.
enum { kRewriteBelow = 45, kVerifyBelow = 75, kGiveUpBelow = 95 };

struct Options {
  unsigned long mib;
  unsigned long seconds;
  unsigned long processes;
  unsigned long seed;
  const char* cgroup;
};

// Shared by all processes.
struct Tally {
  atomic_long wrong, written, verified, given_up, forks;
};

struct Churner {
  size_t pages;
  uint64_t seed;
  uint64_t* memory;
  unsigned* generations;  // 0: the page was never written, or given up
  uint64_t random;
  struct Tally* tally;
};

static uint64_t Draw(struct Churner* churner, uint64_t below) {
  churner->random = Mix(churner->random);
  return churner->random % below;
}

static uint64_t* PageAt(const struct Churner* churner, size_t page) {
  return churner->memory + page * kPageWords;
}

static void Rewrite(struct Churner* churner, size_t first, size_t count) {
  for (size_t page = first; page < first + count; ++page)
    RenderStampedPage(PageAt(churner, page), churner->seed, page, ++churner->generations[page]);
  (void)madvise(PageAt(churner, first), count * kPageBytes, MADV_PAGEOUT);
  churner->tally->written += (long)count;
}

static void Verify(struct Churner* churner, size_t first, size_t count, const char* who) {
  static uint64_t expected[kPageWords];
  for (size_t page = first; page < first + count; ++page) {
    const unsigned generation = churner->generations[page];
    const uint64_t* found = PageAt(churner, page);
    memset(expected, 0, kPageBytes);
    if (generation != 0) RenderStampedPage(expected, churner->seed, page, generation);
    if (memcmp(expected, found, kPageBytes) == 0) continue;
    if (churner->tally->wrong++ < kReportedMismatches) {
      fprintf(stderr, "slot_churn: %s: page %zu is not of generation %u but %llx %llu %llu\n", who,
              page, generation, (unsigned long long)found[kStampWord],
              (unsigned long long)found[kIndexWord], (unsigned long long)found[kGenerationWord]);
    }
  }
  churner->tally->verified += (long)count;
}

static void GiveUp(struct Churner* churner, size_t first, size_t count) {
  (void)madvise(PageAt(churner, first), count * kPageBytes, MADV_DONTNEED);
  memset(churner->generations + first, 0, count * sizeof *churner->generations);
  churner->tally->given_up += (long)count;
}

static void Share(struct Churner* churner, size_t first, size_t count) {
  const pid_t child = fork();
  if (child == 0) {
    Verify(churner, first, count, "child");
    _exit(0);
  }
  Rewrite(churner, first, count);
  if (child > 0) waitpid(child, NULL, 0);
  churner->tally->forks++;
}

static int Churn(const struct Options* options, unsigned process, struct Tally* tally) {
  const size_t pages = options->mib * kPagesPerMib;
  struct Churner churner = {
      .pages = pages,
      .seed = options->seed | (uint64_t)(process + 1) << 16,
      .memory = MapPages(pages),
      .generations = calloc(pages, sizeof(unsigned)),
      .random = Mix(options->seed << 8 | process),
      .tally = tally,
  };
  if (churner.generations == NULL || churner.memory == NULL) return 2;
  const double end = Seconds() + (double)options->seconds;
  while (Seconds() < end) {
    const size_t count = 1 + Draw(&churner, kRunMax);
    const size_t first = Draw(&churner, churner.pages - count + 1);
    const uint64_t action = Draw(&churner, 100);
    if (action < kRewriteBelow) {
      Rewrite(&churner, first, count);
    } else if (action < kVerifyBelow) {
      Verify(&churner, first, count, "owner");
    } else if (action < kGiveUpBelow) {
      GiveUp(&churner, first, count);
    } else {
      Share(&churner, first, count);
    }
  }
  Verify(&churner, 0, churner.pages, "at the end");
  return 0;
}

static int Run(const struct Options* options) {
  if (!EnterCgroup(options->cgroup)) return 2;
  struct Tally* tally =
      mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (tally == MAP_FAILED) return 2;
  for (unsigned process = 0; process < options->processes; ++process) {
    if (fork() == 0) _exit(Churn(options, process, tally));
  }
  bool failed = false;
  int status;
  while (wait(&status) > 0) failed |= status != 0;
  printf(
      "{\"wrong_pages\": %ld, \"written\": %ld, \"verified\": %ld, \"given_up\": %ld, "
      "\"forks\": %ld}\n",
      tally->wrong, tally->written, tally->verified, tally->given_up, tally->forks);
  return failed ? 2 : tally->wrong != 0;
}

int main(int argc, char** argv) {
  struct Options options = {.seconds = 20, .processes = 2, .seed = 1};
  const struct Option known[] = {
      {"mib", .number = &options.mib},
      {"seconds", .number = &options.seconds},
      {"processes", .number = &options.processes},
      {"seed", .number = &options.seed},
      {"cgroup", .text = &options.cgroup},
      {NULL},
  };
  if (!ReadOptions(argc, argv, known)) return 2;
  if (options.mib == 0) {
    fprintf(stderr, "slot_churn: --mib is missing\n");
    return 2;
  }
  return Run(&options);
}
