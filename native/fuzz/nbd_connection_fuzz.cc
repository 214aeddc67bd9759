// A whole connection on any bytes: it must take them, answer in whole replies and end, with nothing
// left behind, whatever the tier says. The first byte of the input chooses what the tier does.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <thread>

#include "nbd/connection.h"
#include "tests/nbd_fake_tier.h"

namespace farswap::nbd {
namespace {

constexpr std::uint64_t kSlots = 64;
// Enough for several requests with payload; more input would only repeat them.
constexpr std::size_t kInputBytesMax = 64 << 10;

void ArrangeTier(FakeTier* tier, unsigned choice) {
  if (choice & 1) tier->SetRemote(3, 20);
  if (choice & 2) tier->FailLoads(5);
  if (choice & 4) tier->FailStores(7, tier::IoStatus::kNoSpace);
  if (choice & 8) tier->RaceStores(2);
  if (choice & 16) tier->FetchInline(true);
}

/// Sends the stream and receives all answers, both at once, until the server hangs up.
void Talk(int socket, std::span<const std::byte> stream) {
  std::array<std::byte, 64 << 10> answers;
  bool sending = true;
  for (;;) {  // ends: the server hangs up after the end of the stream at the latest
    if (sending && stream.empty()) {
      shutdown(socket, SHUT_WR);
      sending = false;
    }
    pollfd wait{socket, static_cast<short>(POLLIN | (sending ? POLLOUT : 0)), 0};
    if (poll(&wait, 1, 20'000) <= 0) std::abort();  // hangs
    if (wait.revents & POLLOUT) {
      const ssize_t sent = send(socket, stream.data(), stream.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) stream = stream.subspan(static_cast<std::size_t>(sent));
      if (sent < 0) sending = false;
    }
    if (wait.revents & (POLLIN | POLLHUP | POLLERR)) {
      if (recv(socket, answers.data(), answers.size(), 0) <= 0) return;
    }
  }
}

void FuzzConnection(std::span<const std::byte> input) {
  if (input.empty() || input.size() > kInputBytesMax) return;
  FakeTier tier(kSlots);
  ArrangeTier(&tier, std::to_integer<unsigned>(input[0]));
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
  auto created = Connection::Create(&tier, kSlots * tier::kPageBytes, ends[1], {});
  if (!created.ok()) std::abort();
  std::thread serving([&] {
    created.value()->Run();
    created.value().reset();
  });
  Talk(ends[0], input.subspan(1));
  close(ends[0]);
  serving.join();
}

}  // namespace
}  // namespace farswap::nbd

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  farswap::nbd::FuzzConnection(std::as_bytes(std::span(data, size)));
  return 0;
}
