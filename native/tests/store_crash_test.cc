// SIGKILL in the middle of stores: what was acknowledged is there, and the counts are exact.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <string>

#include "store_objects.h"

namespace farswap::store {
namespace {

// Runs store_crash_writer until `batches` are acknowledged, kills it, and returns the last batch
// whose acknowledgement got out.
std::uint64_t KillAfter(std::uint64_t batches, std::string path) {
  std::array<int, 2> pipe_ends;
  EXPECT_EQ(pipe2(pipe_ends.data(), O_CLOEXEC), 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], STDOUT_FILENO);
  std::string program = STORE_CRASH_WRITER;
  std::array<char*, 3> arguments = {program.data(), path.data(), nullptr};
  pid_t child = 0;
  EXPECT_EQ(posix_spawn(&child, program.c_str(), &actions, nullptr, arguments.data(), environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  close(pipe_ends[1]);
  std::uint64_t batch = 0;
  while (batch + 1 < batches && read(pipe_ends[0], &batch, sizeof(batch)) == sizeof(batch)) {
  }
  kill(child, SIGKILL);
  while (read(pipe_ends[0], &batch, sizeof(batch)) == sizeof(batch)) {
  }
  close(pipe_ends[0]);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  return batch;
}

TEST(Crash, EveryAcknowledgedPageAndTheExactCountsAreThereAfterSigkill) {
  const ScratchDirectory directory;
  const std::uint64_t last = KillAfter(60, directory.Path("s"));
  OpenedStore opened(directory.Path("s"), 4096 * kMiB);
  ASSERT_EQ(opened.Open('a', "host", kCrashSlots).status, OpenStatus::kOk);
  std::uint64_t found = 0;
  for (std::uint64_t slot = 0; slot < (last + 2) * kBatchObjectsMax; ++slot) {
    const auto page = opened.GetOne(slot);
    const std::uint64_t batch = slot / kBatchObjectsMax;
    found += page.status == ObjectStatus::kOk ? 1 : 0;
    // Every fourth page of a batch goes to the slots of the batch before.
    const bool by_next = slot % 4 == 0;
    if (by_next ? batch >= last : batch > last) continue;
    const std::uint64_t expected = by_next ? batch + 2 : batch + 1;
    ASSERT_EQ(page.status, ObjectStatus::kOk) << "slot " << slot;
    ASSERT_EQ(page.version, expected) << "slot " << slot;
    ASSERT_EQ(page.bytes, ObjectBytes(slot, page.version, 500)) << "slot " << slot;
  }
  EXPECT_EQ(opened.Stat("pages"), found);
  EXPECT_EQ(opened.store->used_bytes(), found * RecordBytes(500));
}

}  // namespace
}  // namespace farswap::store
