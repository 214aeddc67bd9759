// farswap-pingpong: the floor of a page fetch. A parent and a child exchange messages of fixed
// sizes over loopback TCP with plain blocking calls, one at a time, and the parent prints the
// latencies as one JSON object. The sizes are those of a page request and its compressed page. Each
// end stays on a given CPU: by default the kernel puts both on one, unlike any network.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
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

void StayOn(long cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(static_cast<std::size_t>(cpu), &cpus);
  if (sched_setaffinity(0, sizeof(cpus), &cpus) != 0) {
    std::perror("farswap-pingpong: sched_setaffinity");
  }
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

struct Plan {
  std::size_t request_bytes;
  std::size_t reply_bytes;
  double seconds;
  long client_cpu;
  long server_cpu;
};

int Run(const Plan& plan) {
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
    StayOn(plan.server_cpu);
    Serve(listener, plan.request_bytes, plan.reply_bytes);
  }
  StayOn(plan.client_cpu);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  LatencyHistogram latency;
  bool ok = connect(fd, generic, length) == 0;
  if (ok) {
    SetNoDelay(fd);
    ok = Measure(fd, plan.request_bytes, plan.reply_bytes, plan.seconds, &latency);
  }
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
  constexpr int kArguments = 6;
  std::array<double, kArguments> numbers{};
  for (int i = 1; i < argc && argc == kArguments; ++i) {
    numbers[static_cast<std::size_t>(i)] = std::atof(argv[i]);
  }
  if (numbers[1] < 1 || numbers[2] < 1 || numbers[3] <= 0) {
    std::fputs("usage: farswap-pingpong REQUEST_BYTES REPLY_BYTES SECONDS CLIENT_CPU SERVER_CPU\n",
               stderr);
    return 2;
  }
  return farswap::bench::Run({static_cast<std::size_t>(numbers[1]),
                              static_cast<std::size_t>(numbers[2]), numbers[3],
                              static_cast<long>(numbers[4]), static_cast<long>(numbers[5])});
}
