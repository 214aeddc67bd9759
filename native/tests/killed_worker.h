// A program that a test kills, and that goes on in the same memory the next time.
#pragma once

#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "base/memory.h"

namespace farswap {

class KilledWorker {
 public:
  explicit KilledWorker(const char* program) : program_(program) {}

  /// Two arguments of each run: the kind of the memory and its number.
  void Inherit(const Memory& memory) {
    const Memory::Handle& handle = memory.handle();
    const int number = handle.kind == MemoryKind::kSysv ? handle.number : dup(handle.number);
    if (handle.kind != MemoryKind::kSysv) inherited_.emplace_back(number);
    arguments_.push_back(std::to_string(static_cast<int>(handle.kind)));
    arguments_.push_back(std::to_string(number));
  }
  void Spawn(const std::vector<std::string>& more = {}) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    output_ = FileDescriptor(ends[0]);
    const FileDescriptor input(ends[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input.get(), STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, output_.get());
    std::vector<std::string> arguments = arguments_;
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::vector<char*> argv{const_cast<char*>(program_)};
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    ASSERT_EQ(posix_spawn(&worker_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  /// The worker has printed a line: it has verified all pages.
  void WaitUntilVerified() {
    char line;
    ASSERT_EQ(read(output_.get(), &line, 1), 1) << "the worker has ended";
  }
  /// Also its own way to end.
  void WaitUntilDead() {
    int status = 0;
    ASSERT_EQ(waitpid(worker_, &status, 0), worker_);
    ASSERT_FALSE(WIFEXITED(status)) << "the worker ended, with " << WEXITSTATUS(status);
    ASSERT_EQ(WTERMSIG(status), SIGKILL) << "the worker did not come to the step";
  }
  void Kill() {
    kill(worker_, SIGKILL);
    WaitUntilDead();
  }

 private:
  const char* const program_;
  std::vector<FileDescriptor> inherited_;
  std::vector<std::string> arguments_;
  FileDescriptor output_;
  pid_t worker_ = 0;
};

}  // namespace farswap
