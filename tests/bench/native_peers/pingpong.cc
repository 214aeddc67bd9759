// farswap-pingpong: the floor of a page fetch. A parent and a child exchange messages of fixed
// sizes over loopback TCP with plain blocking calls, one at a time, and the parent prints the
// latencies as one JSON object. The sizes are those of a page request and its compressed page.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "loadgen/latency.h"
#include "loadgen/worker.h"

namespace farswap::bench {
namespace {

bool SendAll(int fd, const std::vector<char>& bytes) {
  return send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
}

bool ReceiveAll(int fd, std::vector<char>* bytes) {
  return recv(fd, bytes->data(), bytes->size(), MSG_WAITALL) == static_cast<ssize_t>(bytes->size());
}

void SetNoDelay(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

[[noreturn]] void Serve(int listener, std::size_t request_bytes, std::size_t reply_bytes) {
  const int fd = accept(listener, nullptr, nullptr);
  SetNoDelay(fd);
  std::vector<char> request(request_bytes);
  const std::vector<char> reply(reply_bytes, 'r');
  while (ReceiveAll(fd, &request) && SendAll(fd, reply)) {
  }
  _exit(0);
}

bool Measure(int fd, std::size_t request_bytes, std::size_t reply_bytes, double seconds,
             LatencyHistogram* latency) {
  const std::vector<char> request(request_bytes, 'q');
  std::vector<char> reply(reply_bytes);
  const std::uint64_t warm_ns = NowNs() + 100'000'000;
  const std::uint64_t end_ns = warm_ns + static_cast<std::uint64_t>(seconds * 1e9);
  for (std::uint64_t now_ns = NowNs(); now_ns < end_ns;) {
    if (!SendAll(fd, request) || !ReceiveAll(fd, &reply)) {
      return false;
    }
    const std::uint64_t done_ns = NowNs();
    if (now_ns >= warm_ns) {
      latency->Count(done_ns - now_ns);
    }
    now_ns = done_ns;
  }
  return true;
}

int Run(std::size_t request_bytes, std::size_t reply_bytes, double seconds) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, generic, length) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, generic, &length) != 0) {
    std::perror("farswap-pingpong: listen");
    return 1;
  }
  const pid_t child = fork();
  if (child == 0) {
    Serve(listener, request_bytes, reply_bytes);
  }
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  LatencyHistogram latency;
  const bool ok = connect(fd, generic, length) == 0 &&
                  (SetNoDelay(fd), Measure(fd, request_bytes, reply_bytes, seconds, &latency));
  close(fd);
  waitpid(child, nullptr, 0);
  if (!ok) {
    std::perror("farswap-pingpong");
    return 1;
  }
  const auto us = [](std::uint64_t ns) { return static_cast<double>(ns) / 1000.0; };
  std::printf("{\"count\":%llu,\"p50_us\":%.3f,\"p99_us\":%.3f,\"mean_us\":%.3f}\n",
              static_cast<unsigned long long>(latency.count()), us(latency.PercentileNs(0.5)),
              us(latency.PercentileNs(0.99)), latency.MeanNs() / 1000.0);
  return 0;
}

}  // namespace
}  // namespace farswap::bench

int main(int argc, char** argv) {
  const long request_bytes = argc == 4 ? std::atol(argv[1]) : 0;
  const long reply_bytes = argc == 4 ? std::atol(argv[2]) : 0;
  const double seconds = argc == 4 ? std::atof(argv[3]) : 0;
  if (request_bytes <= 0 || reply_bytes <= 0 || seconds <= 0) {
    std::fputs("usage: farswap-pingpong REQUEST_BYTES REPLY_BYTES SECONDS\n", stderr);
    return 2;
  }
  return farswap::bench::Run(static_cast<std::size_t>(request_bytes),
                             static_cast<std::size_t>(reply_bytes), seconds);
}
