// Memory that outlives its process: what a successor finds in it.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <memory>
#include <string>

#include "base/memory.h"

namespace farswap {
namespace {

constexpr std::size_t kBytes = std::size_t{4} << 20;
constexpr std::byte kContent{0x5a};

bool SendHandle(int socket, const Memory::Handle& handle) {
  iovec content{.iov_base = const_cast<Memory::Handle*>(&handle), .iov_len = sizeof(handle)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &content;
  message.msg_iovlen = 1;
  if (handle.kind != MemoryKind::kSysv) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    *header = {
        .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    std::memcpy(CMSG_DATA(header), &handle.number, sizeof(int));
  }
  return sendmsg(socket, &message, 0) == sizeof(handle);
}

Memory::Handle ReceiveHandle(int socket) {
  Memory::Handle handle;
  iovec content{.iov_base = &handle, .iov_len = sizeof(handle)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &content;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != sizeof(handle)) return {};
  if (const cmsghdr* header = CMSG_FIRSTHDR(&message)) {
    std::memcpy(&handle.number, CMSG_DATA(header), sizeof(int));
  }
  return handle;
}

// Fills memory of that kind, hands it over, and waits for its end.
[[noreturn]] void Fill(int socket, MemoryKind kind) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  auto made = Memory::Create(kBytes, "test", kind);
  if (!made.ok()) {
    const std::string why = made.error().message;
    static_cast<void>(write(socket, why.data(), why.size()));
    _exit(1);
  }
  std::fill_n(made.value()->data(), kBytes, kContent);
  if (!SendHandle(socket, made.value()->handle())) _exit(2);
  while (true) pause();
}

class SurvivingMemory : public ::testing::TestWithParam<MemoryKind> {};

TEST_P(SurvivingMemory, HasItsContentAfterItsProcessWasKilled) {
  auto probe = Memory::Create(kBytes, "test", GetParam());
  if (!probe.ok()) GTEST_SKIP() << probe.error().message;
  EXPECT_TRUE(std::all_of(probe.value()->data(), probe.value()->data() + kBytes,
                          [](std::byte byte) { return byte == std::byte{}; }));
  probe.value()->Remove();
  probe.value().reset();

  int sockets[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) Fill(sockets[1], GetParam());
  const Memory::Handle handle = ReceiveHandle(sockets[0]);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(sockets[0]);
  close(sockets[1]);
  ASSERT_EQ(handle.kind, GetParam());
  auto adopted = Memory::Adopt(handle);
  ASSERT_TRUE(adopted.ok()) << adopted.error().message;
  EXPECT_GE(adopted.value()->bytes(), kBytes);
  EXPECT_TRUE(std::all_of(adopted.value()->data(), adopted.value()->data() + kBytes,
                          [](std::byte byte) { return byte == kContent; }));
  adopted.value()->Remove();
}

INSTANTIATE_TEST_SUITE_P(Kinds, SurvivingMemory, ::testing::ValuesIn(kSurvivingKinds),
                         [](const auto& kind) { return NameOf(kind.param); });

TEST(Memory, ThatIsGoneIsRefused) {
  auto adopted = Memory::Adopt({MemoryKind::kSysv, 0x7fffffff});
  ASSERT_FALSE(adopted.ok());
  EXPECT_NE(adopted.error().message.find("find a System V segment"), std::string::npos);
}

}  // namespace
}  // namespace farswap
