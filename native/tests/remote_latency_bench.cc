// What a fetch of one page costs through Cluster, beside a raw blocking TCP ping-pong of messages
// of the same sizes. Two processes, since one gRPC would serve both ends with the same threads.
//
//   remote_latency_bench [ROUNDS]     both, alternating, with the ratio of their medians
//   remote_latency_bench --serve     the other end: prints its two ports, ends with its input
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "remote/cluster.h"
#include "remote_fake_store.h"
#include "waiter.h"

namespace farswap::remote {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kObjectBytes = 1600;  // a page of real memory after LZ4, about
constexpr std::size_t kRequestBytes = 32;
constexpr std::size_t kAnswerBytes = kObjectBytes + 48;
constexpr tier::SlotIndex kPages = 4096;

void Require(bool condition, const char* what) {
  if (condition) return;
  std::perror(what);
  std::exit(1);
}

int Listen(int* port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  Require(bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0, "bind");
  Require(listen(fd, 1) == 0, "listen");
  Require(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0, "getsockname");
  *port = ntohs(address.sin_port);
  return fd;
}

void NoDelay(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

bool ReceiveAll(int fd, std::byte* bytes, std::size_t count) {
  return recv(fd, bytes, count, MSG_WAITALL) == static_cast<ssize_t>(count);
}

bool SendAll(int fd, const std::byte* bytes, std::size_t count) {
  return send(fd, bytes, count, MSG_NOSIGNAL) == static_cast<ssize_t>(count);
}

int Serve() {
  FakeStore store;
  int port = 0;
  const int listener = Listen(&port);
  std::thread echo([listener] {
    const int fd = accept(listener, nullptr, nullptr);
    NoDelay(fd);
    std::array<std::byte, kAnswerBytes> buffer{};
    while (ReceiveAll(fd, buffer.data(), kRequestBytes)) {
      if (!SendAll(fd, buffer.data(), kAnswerBytes)) break;
    }
    close(fd);
  });
  std::printf("%d %d\n", store.port(), port);
  std::fflush(stdout);
  while (std::getchar() != EOF) continue;
  shutdown(listener, SHUT_RDWR);
  echo.join();
  return 0;
}

class OneFetch final : public tier::RemoteFetch {
 public:
  tier::Verdict OnObject(std::size_t, const tier::Object& object) override {
    found_ = object.bytes.size() == kObjectBytes;
    return tier::Verdict::kAccept;
  }
  void OnMissing(std::size_t, tier::GetResult) override { found_ = false; }
  void OnGetDone() override { answered_->Set(Clock::now()); }

  struct Times {
    Clock::duration to_answer;  // to the callback, where the product copies the page out
    Clock::duration to_waiter;  // until a blocked thread runs again
  };
  Times Run(Cluster* cluster, tier::SlotIndex slot) {
    count = 1;
    keys[0] = slot;
    Waiter<Clock::time_point> answered;
    answered_ = &answered;
    const auto began = Clock::now();
    cluster->Get(this);
    const Clock::time_point answered_at = answered.Wait().value();
    const auto to_waiter = Clock::now() - began;
    Require(found_, "a page was not found");
    return {answered_at - began, to_waiter};
  }

 private:
  bool found_ = false;
  Waiter<Clock::time_point>* answered_ = nullptr;
};

class Batch final : public tier::PutBatch {
 public:
  void OnPutDone() override { done_->Set(); }
  void Fill(Cluster* cluster, tier::SlotIndex first) {
    static const std::string bytes(kObjectBytes, 'x');
    count = kObjectsMax;
    for (std::size_t i = 0; i < count; ++i) {
      objects[i] = {.key = first + static_cast<tier::SlotIndex>(i),
                    .version = 1,
                    .codec = tier::Codec::kLz4,
                    .bytes = std::as_bytes(std::span(bytes))};
    }
    Waiter<> done;
    done_ = &done;
    cluster->Put(this);
    Require(done.Wait().has_value() && results[0] == tier::PutResult::kAcked,
            "a page was not kept");
  }

 private:
  Waiter<>* done_ = nullptr;
};

double Microseconds(std::vector<Clock::duration> times, double quantile) {
  std::sort(times.begin(), times.end());
  const auto index = static_cast<std::size_t>(quantile * static_cast<double>(times.size() - 1));
  return std::chrono::duration<double, std::micro>(times[index]).count();
}

struct Ends {
  pid_t pid;
  int input;  // closing it ends the server
  int store_port;
  int echo_port;
};

Ends StartServer(const char* program) {
  int to[2];
  int from[2];
  Require(pipe2(to, O_CLOEXEC) == 0 && pipe2(from, O_CLOEXEC) == 0, "pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to[0], 0);
  posix_spawn_file_actions_adddup2(&actions, from[1], 1);
  std::string serve = "--serve";
  std::string name = program;
  char* arguments[] = {name.data(), serve.data(), nullptr};
  Ends ends{};
  Require(posix_spawn(&ends.pid, program, &actions, nullptr, arguments, environ) == 0, "spawn");
  posix_spawn_file_actions_destroy(&actions);
  close(to[0]);
  close(from[1]);
  ends.input = to[1];
  FILE* const output = fdopen(from[0], "r");
  Require(std::fscanf(output, "%d %d", &ends.store_port, &ends.echo_port) == 2, "server");
  std::fclose(output);
  return ends;
}

int ConnectRaw(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  Require(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0, "connect");
  NoDelay(fd);
  return fd;
}

Clock::duration PingPong(int fd) {
  std::array<std::byte, kAnswerBytes> buffer{};
  const auto began = Clock::now();
  Require(SendAll(fd, buffer.data(), kRequestBytes), "send");
  Require(ReceiveAll(fd, buffer.data(), kAnswerBytes), "receive");
  return Clock::now() - began;
}

int Measure(const char* program, int rounds) {
  const Ends ends = StartServer(program);
  ClusterConfig config;
  config.servers = {"127.0.0.1:" + std::to_string(ends.store_port)};
  config.host_id = "bench";
  config.device = "swap0";
  config.slots = kPages;
  auto created = Cluster::Create(config);
  Require(created.ok(), "cluster");
  Cluster* const cluster = created.value().get();
  Require(Eventually([&] { return cluster->Writable(); }), "the server does not answer");
  Batch batch;
  for (tier::SlotIndex slot = 0; slot < kPages; slot += Batch::kObjectsMax)
    batch.Fill(cluster, slot);

  const int raw = ConnectRaw(ends.echo_port);
  std::vector<Clock::duration> pings;
  std::vector<Clock::duration> answers;
  std::vector<Clock::duration> waiters;
  OneFetch fetch;
  constexpr int kBurst = 500;  // alternate, so that the machine's moods hit both
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < kBurst; ++i) pings.push_back(PingPong(raw));
    for (int i = 0; i < kBurst; ++i) {
      const auto slot = static_cast<tier::SlotIndex>(i) * 7919 % kPages;
      const OneFetch::Times times = fetch.Run(cluster, slot);
      answers.push_back(times.to_answer);
      waiters.push_back(times.to_waiter);
    }
  }
  const double base = Microseconds(pings, 0.5);
  std::printf("%-34s %8s %8s %8s\n", "", "p50 us", "p99 us", "x raw");
  const auto report = [base](const char* name, const std::vector<Clock::duration>& times) {
    const double median = Microseconds(times, 0.5);
    std::printf("%-34s %8.1f %8.1f %8.2f\n", name, median, Microseconds(times, 0.99),
                median / base);
  };
  report("raw blocking TCP ping-pong", pings);
  report("fetch of 1 page, to its answer", answers);
  report("fetch of 1 page, to a woken thread", waiters);
  close(raw);
  cluster->Stop();
  close(ends.input);
  waitpid(ends.pid, nullptr, 0);
  return 0;
}

}  // namespace
}  // namespace farswap::remote

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  setenv("GRPC_POLL_STRATEGY", "poll", 0);  // as the daemons do; inherited by the other end
  if (argc == 2 && std::strcmp(argv[1], "--serve") == 0) return farswap::remote::Serve();
  const int rounds = argc == 2 ? std::atoi(argv[1]) : 20;
  return farswap::remote::Measure("/proc/self/exe", rounds > 0 ? rounds : 20);
}
