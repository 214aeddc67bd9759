// farswap-loadgen: a pipelined NBD client that checks every byte it reads against what it wrote.
// Connects all its connections first, then runs the phases one after another, one thread a
// connection. See options.h for the command line and report.h for the output.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "loadgen/corpus.h"
#include "loadgen/history.h"
#include "loadgen/report.h"
#include "loadgen/worker.h"

namespace farswap::bench {
namespace {

constexpr int kExitMismatch = 1;
constexpr int kExitUsage = 2;
constexpr int kExitStall = 3;
constexpr int kExitConnection = 4;
constexpr int kExitInterrupted = 130;

std::atomic<bool> interrupted{false};

void OnSignal(int /*signal*/) {
  interrupted = true;
  stop_requested = true;
}

int Complain(const std::string& message, int code) {
  std::fprintf(stderr, "farswap-loadgen: %s\n", message.c_str());
  return code;
}

void Emit(const std::string& line) {
  std::fputs(line.c_str(), stdout);
  std::fflush(stdout);
}

/// Lines of standard input. Between phases an empty one begins the next; during a phase with
/// progress lines, "end" ends it, "mark" and "unmark" begin and end the time whose latencies are
/// also counted as marked.
class Commands {
 public:
  /// The next line, after `wait_ms` at most; -1: no limit. Nothing: none has come, or interrupted.
  std::optional<std::string> Next(int wait_ms) {
    for (;;) {
      if (const std::size_t end = text_.find('\n'); end != std::string::npos) {
        std::string line = text_.substr(0, end);
        text_.erase(0, end + 1);
        return line;
      }
      pollfd input{STDIN_FILENO, POLLIN, 0};
      if (ended_ || poll(&input, 1, wait_ms) <= 0) {
        return std::nullopt;
      }
      std::array<char, 256> bytes{};
      const ssize_t got = read(STDIN_FILENO, bytes.data(), bytes.size());
      ended_ = got <= 0;
      text_.append(bytes.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    }
  }

 private:
  std::string text_;
  bool ended_ = false;
};

void Execute(Commands* commands) {
  while (const std::optional<std::string> command = commands->Next(0)) {
    if (*command == "end") {
      phase_ended = true;
    } else if (*command == "mark" || *command == "unmark") {
      latency_marked = *command == "mark";
    }
  }
}

/// Counts the workers that are through, and wakes the printer of progress lines.
class Finish {
 public:
  explicit Finish(std::size_t workers) : running_(workers) {}
  void One() {
    const std::lock_guard<std::mutex> guard(mutex_);
    --running_;
    changed_.notify_all();
  }
  /// True once all are through.
  bool Wait(std::chrono::milliseconds timeout) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, timeout, [this] { return running_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t running_;
};

void RunPhase(const Options& options, const Phase& phase,
              std::vector<std::unique_ptr<Worker>>* workers, Commands* commands, Totals* totals) {
  phase_ended = latency_marked = false;
  PhaseResults results;
  std::vector<std::thread> threads;
  const std::size_t active = phase.connections == 0 ? workers->size() : phase.connections;
  Finish finish(active);
  for (std::size_t i = 0; i < active; ++i) {
    results.push_back(std::make_unique<PhaseResult>());
  }
  const std::uint64_t began_ns = NowNs();
  const auto elapsed = [began_ns] { return static_cast<double>(NowNs() - began_ns) / 1e9; };
  for (std::size_t i = 0; i < active; ++i) {
    const std::uint64_t share =
        phase.page_ops == 0 ? 0 : std::max<std::uint64_t>(1, phase.page_ops / active);
    threads.emplace_back([&, i, share] {
      (*workers)[i]->Run(phase, share, results[i].get());
      finish.One();
    });
  }
  const std::chrono::milliseconds interval(options.progress_ms == 0 ? 1000 : options.progress_ms);
  while (!finish.Wait(interval)) {
    if (options.progress_ms != 0) {
      Emit(ProgressLine(phase, results, elapsed()));
      Execute(commands);
    }
  }
  const double seconds = elapsed();
  for (std::thread& thread : threads) {
    thread.join();
  }
  totals->Add(results);
  Emit(PhaseLine(phase, results, seconds));
}

/// The input ends with the process that drives this one.
void AwaitStart(Commands* commands) {
  if (!commands->Next(-1)) {
    interrupted = true;
    stop_requested = true;
  }
}

Outcome CheckOffered(const Options& options, const Export& exported) {
  const auto needs = [&](Op op, std::uint16_t flag) {
    bool used = false;
    for (const Phase& phase : options.phases) {
      used = used || phase.weights[static_cast<std::size_t>(op)] != 0;
    }
    return used && (exported.flags & flag) == 0;
  };
  if (needs(Op::kTrim, kFlagSendTrim) || needs(Op::kZero, kFlagSendWriteZeroes) ||
      needs(Op::kFlush, kFlagSendFlush)) {
    return Error{"the server does not offer an operation of the mix"};
  }
  if (options.connections > 1 && (exported.flags & kFlagCanMultiConn) == 0) {
    return Error{"the server does not offer several connections to one export"};
  }
  if (exported.bytes < kPageBytes) {
    return Error{"the export is smaller than a page"};
  }
  return std::monostate{};
}

int ExitCode(const Totals& totals) {
  if (totals.mismatched_pages != 0) {
    return kExitMismatch;
  }
  if (totals.trouble != Trouble::kNone) {
    return totals.trouble == Trouble::kStall ? kExitStall : kExitConnection;
  }
  return totals.interrupted ? kExitInterrupted : 0;
}

Result<std::unique_ptr<Corpus>> MakeCorpus(const Options& options) {
  if (options.corpus_path.empty()) {
    return Corpus::Synthetic(options.synthetic_pages, options.seed);
  }
  return Corpus::Open(options.corpus_path, options.pure, options.seed);
}

int Run(const Options& options) {
  auto corpus = MakeCorpus(options);
  if (!corpus.ok()) {
    return Complain(corpus.error().message, kExitUsage);
  }
  std::vector<NbdSocket> sockets;
  for (std::uint32_t i = 0; i < options.connections; ++i) {
    auto socket = NbdSocket::Connect(options.connect, options.export_name);
    if (!socket.ok()) {
      return Complain(socket.error().message, kExitConnection);
    }
    sockets.push_back(std::move(socket.value()));
  }
  const Export exported = sockets.front().exported();
  Outcome offered = CheckOffered(options, exported);
  if (!offered.ok()) {
    return Complain(offered.error().message, kExitUsage);
  }
  const std::uint64_t slots = exported.bytes / kPageBytes;
  auto exclusive = MakeExclusiveHistory(options.shared ? 1 : slots, corpus.value().get());
  if (!exclusive.ok()) {
    return Complain(exclusive.error().message, kExitUsage);
  }
  const std::unique_ptr<History> history =
      options.shared ? MakeSharedHistory(slots, options.connections, corpus.value().get())
                     : std::move(exclusive.value());
  std::vector<std::unique_ptr<Worker>> workers;
  for (std::uint32_t i = 0; i < options.connections; ++i) {
    workers.push_back(std::make_unique<Worker>(i, std::move(sockets[i]), options, history.get()));
  }
  Totals totals;
  Commands commands;
  for (const Phase& phase : options.phases) {
    if (phase.wait) {
      Emit(WaitingLine(phase));
      AwaitStart(&commands);
    }
    if (!stop_requested) {
      RunPhase(options, phase, &workers, &commands, &totals);
    }
  }
  totals.interrupted = interrupted;
  Emit(DoneLine(totals));
  return ExitCode(totals);
}

}  // namespace
}  // namespace farswap::bench

int main(int argc, char** argv) {
  struct sigaction action {};
  action.sa_handler = farswap::bench::OnSignal;  // no SA_RESTART: poll() must return
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  auto options = farswap::bench::ParseOptions(argc, argv);
  if (!options.ok()) {
    std::fputs(farswap::bench::kUsage, stderr);
    return farswap::bench::Complain(options.error().message, farswap::bench::kExitUsage);
  }
  return farswap::bench::Run(options.value());
}
