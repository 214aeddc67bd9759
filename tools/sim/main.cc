// farswap-sim: what a fleet does to the placement planner, and the planner to the fleet, in virtual
// time. Prints one JSON object; `make sim` runs several and prints them as a table.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"
#include "faults.h"
#include "fleet.h"

namespace farswap::sim {
namespace {

using namespace std::chrono_literals;

constexpr char kUsage[] =
    "usage: farswap-sim [--servers N] [--newcomers N] [--racks N] [--hosts N] [--shards N]\n"
    "                   [--replicas 1..3] [--width N] [--fanout N] [--days N] [--seed N]\n"
    "                   [--no-faults]\n"
    "       farswap-sim --check N [--seed N]\n"
    "Simulates a fleet for --days of virtual time. Prints a JSON object with balance, data moved,\n"
    "times to repair, shards lost and messages. The same options give the same output.\n"
    "--check runs N small fleets, of seeds from --seed on, and prints the seeds of those that do\n"
    "not come to rest after faults, or lose shards without need; then its exit code is 1.\n";

struct Options {
  FleetConfig fleet{.newcomers = 10};
  std::size_t days = 30;
  std::size_t check = 0;
  bool faults = true;
};

[[noreturn]] void Refuse(const char* option) {
  std::fprintf(stderr, "farswap-sim: %s: not an option, or not a number in its range\n%s", option,
               kUsage);
  std::exit(2);
}

std::size_t* FieldOf(Options* options, std::string_view name) {
  FleetConfig& fleet = options->fleet;
  if (name == "--servers") return &fleet.servers;
  if (name == "--newcomers") return &fleet.newcomers;
  if (name == "--racks") return &fleet.racks;
  if (name == "--hosts") return &fleet.hosts;
  if (name == "--shards") return &fleet.shards;
  if (name == "--replicas") return &fleet.replicas;
  if (name == "--width") return &fleet.width;
  if (name == "--fanout") return &fleet.fanout;
  if (name == "--days") return &options->days;
  if (name == "--check") return &options->check;
  if (name == "--seed") return &fleet.seed;
  return nullptr;
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--help") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    }
    if (name == "--no-faults") {
      options.faults = false;
      continue;
    }
    std::size_t* field = FieldOf(&options, name);
    if (field == nullptr || ++i == argc) Refuse(name.data());
    const char* end = argv[i] + std::strlen(argv[i]);
    const auto [rest, error] = std::from_chars(argv[i], end, *field);
    const bool may_be_none = name == "--seed" || name == "--newcomers";
    if (error != std::errc{} || rest != end || (*field == 0 && !may_be_none)) Refuse(name.data());
  }
  const FleetConfig& fleet = options.fleet;
  if (fleet.replicas > placement::ReplicaSet::kReplicasMax) Refuse("--replicas");
  if (fleet.servers + fleet.newcomers > placement::kMembersMax) Refuse("--servers");
  return options;
}

// --- Losses of several servers at once, of which copysets decide what they cost.

struct PowerFailure {
  std::size_t servers;  // that do not come back
  double losing = 0.0;  // share of the trials that lost a shard
  double pages = 0.0;   // mean over all trials
};

// Random servers do not come back after a power failure (the measure of Cidon et al.).
PowerFailure FailTogether(Fleet* fleet, std::size_t servers) {
  constexpr int kTrials = 1000;
  const auto sets = fleet->SetsInUse();
  PowerFailure failure{.servers = servers};
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<bool> dead(fleet->servers());
    for (std::size_t count = 0; count < servers;) {
      auto server = dead.begin() + static_cast<std::ptrdiff_t>(fleet->random()() % dead.size());
      count += *server ? 0 : 1;
      *server = true;
    }
    double shards = 0.0;
    for (const auto& [set, count] : sets) {
      const auto replicas = set.All();
      const bool lost = std::ranges::all_of(replicas, [&](const placement::Replica& replica) {
        return replica.state == placement::ReplicaState::kNone || dead[replica.member];
      });
      if (lost) shards += static_cast<double>(count);
    }
    failure.losing += (shards > 0.0 ? 1.0 : 0.0) / kTrials;
    failure.pages += shards * 4096 / kTrials;
  }
  return failure;
}

// --- The run and its report.

double Minutes(Time time) { return static_cast<double>(time.count()) / 60e3; }

double Quantile(std::vector<Time> times, double quantile) {
  if (times.empty()) return 0.0;
  std::ranges::sort(times);
  const auto last = static_cast<double>(times.size() - 1);
  return Minutes(times[static_cast<std::size_t>(last * quantile)]);
}

// Comma-separated.
template <typename Range, typename Format>
std::string Joined(const Range& range, Format format) {
  std::string text;
  for (const auto& each : range) text += (text.empty() ? "" : ", ") + format(each);
  return text;
}

std::string Number(double number) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3f", number);
  return text;
}

struct Course {
  double balance_filled = 0.0;
  double balance_worst = 0.0;      // from the newcomers on
  std::vector<double> balances;    // every quarter of a day
  double newcomer_fullness = 0.0;  // at the end
  std::size_t newcomer_hours = 0;  // until they were as full as rebalancing makes them
};

double NewcomerFullness(const Fleet& fleet, const FleetConfig& config) {
  double fullness = 0.0;
  for (std::size_t i = config.servers; i < fleet.servers(); ++i) {
    fullness += fleet.FullnessOf(i) / static_cast<double>(config.newcomers);
  }
  return fullness;
}

// Newcomers arrive at half time.
Course RunCourse(Fleet* fleet, const FleetConfig& config, Time end) {
  Course course;
  course.balance_filled = fleet->Imbalance();
  const Time joined = std::max<Time>(fleet->now(), end / 2);
  bool full = config.newcomers == 0;
  for (Time next = fleet->now(); next < end;) {
    const bool before = next < joined;
    next += 6h;
    if (before && next >= joined) {
      fleet->RunUntil(joined);
      fleet->AddNewcomers();
    }
    while (fleet->now() < std::min(next, end)) {
      fleet->RunUntil(std::min({next, end, fleet->now() + 1h}));
      if (full || fleet->now() <= joined) continue;
      course.newcomer_hours = static_cast<std::size_t>((fleet->now() - joined) / 1h);
      full = NewcomerFullness(*fleet, config) > fleet->MeanFullness() - 0.1;
    }
    course.balances.push_back(fleet->Imbalance());
    if (fleet->now() > joined) {
      course.balance_worst = std::max(course.balance_worst, course.balances.back());
    }
  }
  course.newcomer_fullness = NewcomerFullness(*fleet, config);
  return course;
}

void PrintFailures(Fleet* fleet, const FleetConfig& config) {
  std::vector<PowerFailure> failures;
  const std::size_t hundredth = std::max(config.replicas, fleet->servers() / 100);
  failures.push_back(FailTogether(fleet, hundredth));
  for (const std::size_t servers : {1u, 2u, 3u, 4u, 6u, 8u, 12u, 16u}) {
    if (servers < fleet->servers()) failures.push_back(FailTogether(fleet, servers));
  }
  std::printf(" \"power_failures_losing\": %.3f, \"power_failure_pages\": %.0f,\n",
              failures[0].losing, failures[0].pages);
  const auto triple = [](const PowerFailure& each) {
    return "[" + std::to_string(each.servers) + ", " + Number(each.losing) + ", " +
           Number(each.pages) + "]";
  };
  std::printf(" \"power_failures\": [%s],\n",
              Joined(std::span(failures).subspan(1), triple).c_str());
}

void Print(Fleet* fleet, const Options& options, const Course& course, const Faults& faults) {
  const Totals& totals = fleet->totals();
  const double seconds = static_cast<double>(fleet->now().count()) / 1e3;
  std::printf(
      "{\"servers\": %zu, \"hosts\": %zu, \"days\": %zu, \"replicas\": %zu, \"width\": %zu, "
      "\"seed\": %zu,\n"
      " \"balance_filled\": %.3f, \"balance_end\": %.3f, \"balance_worst\": %.3f, "
      "\"newcomer_fullness\": %.3f, \"newcomer_hours\": %zu,\n"
      " \"placed_gib\": %.1f, \"copied_gib\": %.1f, \"copies\": %zu, \"copies_failed\": %zu, "
      "\"copies_put_off\": %zu, \"copies_at_once_max\": %zu,\n",
      fleet->servers(), options.fleet.hosts, options.days, options.fleet.replicas,
      options.fleet.width, options.fleet.seed, course.balance_filled, fleet->Imbalance(),
      course.balance_worst, course.newcomer_fullness, course.newcomer_hours,
      static_cast<double>(totals.bytes_placed) / (1 << 30),
      static_cast<double>(totals.bytes_copied) / (1 << 30), totals.copies, totals.copies_failed,
      totals.copies_put_off, totals.copies_at_once_max);
  std::printf(
      " \"losses\": %zu, \"repair_minutes_p50\": %.1f, \"repair_minutes_max\": %.1f, "
      "\"drains\": %zu, \"drain_minutes_p50\": %.1f,\n"
      " \"shards_lost\": %zu, \"shards_promoted\": %zu, \"pages_lost\": %zu, "
      "\"debt_end\": %zu, \"unplaced\": %zu,\n"
      " \"messages_per_s\": %.1f, \"heartbeats_per_s\": %.0f,\n",
      faults.losses(), Quantile(totals.repairs, 0.5), Quantile(totals.repairs, 1.0),
      faults.drains().size(), Quantile(faults.drains(), 0.5), fleet->Lost(), totals.promoted,
      totals.pages_lost, fleet->Debt(), totals.unplaced,
      static_cast<double>(totals.messages) / seconds, fleet->HeartbeatsPerSecond());
  std::vector<double> repairs;
  for (int i = 0; i <= 20; ++i) repairs.push_back(Quantile(totals.repairs, i / 20.0));
  std::printf(" \"balances\": [%s],\n \"repair_minutes\": [%s],\n",
              Joined(course.balances, Number).c_str(), Joined(repairs, Number).c_str());
}

void Run(const Options& options) {
  const auto began = std::chrono::steady_clock::now();
  Fleet fleet(options.fleet);
  fleet.FillWithin(24h);
  fleet.RunUntil(25h);
  const FaultConfig none{0, 0, 0, 0, 0, 0, 0, 0};
  const Faults faults(&fleet, options.faults ? FaultConfig{} : none, options.fleet.racks);
  const Course course =
      RunCourse(&fleet, options.fleet, 24h * static_cast<std::int64_t>(options.days));
  Print(&fleet, options, course, faults);
  PrintFailures(&fleet, options.fleet);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  std::printf(" \"took_s\": %.1f}\n", took.count());
}

int CheckAll(const Options& options) {
  int failed = 0;
  for (std::size_t seed = options.fleet.seed; seed < options.fleet.seed + options.check; ++seed) {
    const std::string broken = Check(seed);
    if (broken.empty()) continue;
    ++failed;
    std::printf("seed %zu: %s\n", seed, broken.c_str());
  }
  std::printf("%zu fleets, %d failed\n", options.check, failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace farswap::sim

int main(int argc, char** argv) {
  const auto options = farswap::sim::Parse(argc, argv);
  if (options.check > 0) return farswap::sim::CheckAll(options);
  farswap::sim::Run(options);
  return 0;
}
