// What programs that swap have in common: their options, the cgroup that is too small for them, the
// memory that they fill, and the wait while a test reads their pages.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "stamped_pages.h"

// --name, with where its value goes: one of the three.
struct Option {
  const char* name;
  unsigned long* number;
  const char** text;
  bool* flag;
};

// `options` end with one that has no name. False, with the reason on stderr.
static inline bool ReadOptions(int argc, char** argv, const struct Option* options) {
  enum { kOptionsMax = 16 };
  struct option known[kOptionsMax + 1] = {0};
  for (int i = 0; i < kOptionsMax && options[i].name != NULL; ++i) {
    known[i] = (struct option){
        .name = options[i].name,
        .has_arg = options[i].flag != NULL ? no_argument : required_argument,
        .val = i,
    };
  }
  int chosen;
  while ((chosen = getopt_long(argc, argv, "", known, NULL)) != -1) {
    if (chosen == '?') return false;
    const struct Option* option = &options[chosen];
    if (option->flag != NULL) *option->flag = true;
    if (option->text != NULL) *option->text = optarg;
    if (option->number != NULL) *option->number = strtoul(optarg, NULL, 10);
  }
  return true;
}

// Moves this process into a cgroup, v1 or v2; NULL: it stays where it is. False, with the reason on
// stderr.
static inline bool EnterCgroup(const char* directory) {
  if (directory == NULL) return true;
  char path[4096];
  snprintf(path, sizeof path, "%s/cgroup.procs", directory);
  const int fd = open(path, O_WRONLY);
  const bool entered = fd >= 0 && dprintf(fd, "%d\n", getpid()) > 0;
  if (!entered) fprintf(stderr, "%s: %s\n", path, strerror(errno));
  if (fd >= 0) close(fd);
  return entered;
}

// Memory for pages, none of it touched. NULL, with the reason on stderr.
static inline uint64_t* MapPages(size_t pages) {
  void* memory = mmap(NULL, pages * kPageBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory != MAP_FAILED) return memory;
  perror("memory");
  return NULL;
}

static inline double Seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

// Makes the file `directory`/`name` and waits until `directory`/`name`.go is there: a test looks
// at the pages meanwhile.
static inline void WaitToGoOn(const char* directory, const char* name) {
  enum { kLookMicroseconds = 20000 };
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  const int fd = open(path, O_WRONLY | O_CREAT, 0600);
  if (fd >= 0) close(fd);
  snprintf(path, sizeof path, "%s/%s.go", directory, name);
  while (access(path, F_OK) != 0) usleep(kLookMicroseconds);
}
