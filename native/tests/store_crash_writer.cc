// store_crash_writer PATH: stores batches without end and prints the number of each that was
// acknowledged. Killed by store_crash_test while it does.
#include <unistd.h>

#include <array>
#include <cstdio>

#include "store_objects.h"

int main(int argc, char** argv) {
  using namespace farswap::store;
  if (argc != 2) return 2;
  OpenedStore opened(argv[1], 4096 * kMiB);
  if (opened.Open('a', "host", kCrashSlots).status != OpenStatus::kOk) return 1;
  for (std::uint64_t batch = 0;; ++batch) {
    std::array<std::string, kBatchObjectsMax> bytes;
    std::vector<ObjectRecord> pages;
    for (std::size_t i = 0; i < kBatchObjectsMax; ++i) {
      // Every fourth page overwrites one of the batch before.
      const std::uint64_t back = i % 4 == 0 && batch > 0 ? kBatchObjectsMax : 0;
      const std::uint64_t slot = (batch * kBatchObjectsMax + i - back);
      bytes[i] = ObjectBytes(slot, batch + 1, 500);
      pages.push_back(MakeObject(slot, batch + 1, bytes[i]));
    }
    for (const ObjectStatus status : opened.PutAll(pages)) {
      if (status != ObjectStatus::kOk) return 1;
    }
    if (write(STDOUT_FILENO, &batch, sizeof(batch)) != sizeof(batch)) return 1;
  }
}
