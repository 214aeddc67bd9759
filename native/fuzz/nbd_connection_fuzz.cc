// A whole connection on any stream: it must take it, answer, and end with nothing left behind,
// for any answer of the tier.
//
// Input: a byte that chooses what the tier does, then records of 8 bytes. A record is a request in
// short form, so that most of them get past the parser (which has a target of its own), or, one
// time in eight, raw bytes that put the stream out of step.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

#include "nbd/connection.h"
#include "tests/nbd_fake_tier.h"

namespace farswap::nbd {
namespace {

constexpr std::uint64_t kSlots = 64;
constexpr std::size_t kRecordBytes = 8;
constexpr std::size_t kInputBytesMax = 1 + 64 * kRecordBytes;

void ArrangeTier(FakeTier* tier, unsigned choice) {
  if (choice & 1) tier->SetRemote(3, 20);
  if (choice & 2) tier->FailLoads(5);
  if (choice & 4) tier->FailStores(7, tier::IoStatus::kNoSpace);
  if (choice & 8) tier->FetchInline(true);
  if (choice & 16) tier->HoldStores(9, 4, true);
}

unsigned Byte(std::byte byte) { return std::to_integer<unsigned>(byte); }

/// The bytes of a record: command and flags, offset and length in pages (now and then a byte more,
/// or beyond the end), and whether a WRITE's payload is cut off.
void AppendRecord(std::span<const std::byte> record, std::vector<std::byte>* stream) {
  const unsigned kind = Byte(record[0]);
  if (kind % 8 == 7) {
    stream->insert(stream->end(), record.begin() + 1, record.end());
    return;
  }
  const unsigned command = kind % 8;
  const unsigned flags = Byte(record[1]) % 4 == 0 ? Byte(record[1]) / 4 : 0;
  const auto bytes_of = [](std::byte pages, std::byte odd) {
    return Byte(pages) % (kSlots + 2) * tier::kPageBytes + (Byte(odd) % 16 == 15);
  };
  const auto offset = static_cast<std::uint32_t>(bytes_of(record[2], record[3]));
  const auto length = static_cast<std::uint32_t>(bytes_of(record[4], record[5]));
  std::array<std::byte, kRequestBytes> header{};
  StoreBigEndian(header.data(), kRequestMagic);
  StoreBigEndian(header.data() + 4, flags << 16 | command);
  StoreBigEndian(header.data() + 20, offset);
  StoreBigEndian(header.data() + 24, length);
  stream->insert(stream->end(), header.begin(), header.end());
  const bool cut_off = Byte(record[7]) == 255;
  if (command == 1) stream->resize(stream->size() + (cut_off ? length / 2 : length), record[6]);
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
  ArrangeTier(&tier, Byte(input[0]));
  std::vector<std::byte> stream;
  for (auto rest = input.subspan(1); rest.size() >= kRecordBytes;
       rest = rest.subspan(kRecordBytes)) {
    AppendRecord(rest.first(kRecordBytes), &stream);
  }
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
  auto created = Connection::Create(&tier, kSlots * tier::kPageBytes, ends[1], {});
  if (!created.ok()) std::abort();
  std::thread serving([&] {
    created.value()->Run();
    created.value().reset();
  });
  Talk(ends[0], stream);
  close(ends[0]);
  serving.join();
}

}  // namespace
}  // namespace farswap::nbd

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  farswap::nbd::FuzzConnection(std::as_bytes(std::span(data, size)));
  return 0;
}
