// farswap-sim: what a fleet does to the placement planner, and the planner to the fleet, in virtual
// time. Prints one JSON object; `make sim` runs several and prints them as a table.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "faults.h"
#include "fleet.h"

namespace farswap::sim {
namespace {

using namespace std::chrono_literals;

constexpr char kUsage[] =
    "usage: farswap-sim [--servers N] [--newcomers N] [--racks N] [--hosts N] [--shards N]\n"
    "                   [--replicas 1..3] [--width N] [--fanout N] [--days N] [--seed N]\n"
    "                   [--no-faults]\n"
    "Simulates a fleet for --days of virtual time. Prints a JSON object with balance, data moved,\n"
    "times to repair, shards lost and messages. The same options give the same output.\n";

struct Options {
  FleetConfig fleet{.newcomers = 10};
  std::size_t days = 30;
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

struct Catastrophe {
  double losing = 0.0;  // share of the trials that lost a shard
  double shards = 0.0;  // mean over the trials that did
};

// A hundredth of all servers, at least as many as there are replicas, do not come back after a
// power failure (the measure of Cidon et al.).
Catastrophe PowerFailures(Fleet* fleet, std::size_t replicas) {
  constexpr int kTrials = 200;
  const std::size_t failing = std::max(replicas, fleet->servers() / 100);
  int losing = 0;
  double shards = 0.0;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<bool> dead(fleet->servers());
    for (std::size_t count = 0; count < failing;) {
      auto server = dead.begin() + static_cast<std::ptrdiff_t>(fleet->random()() % dead.size());
      count += *server ? 0 : 1;
      *server = true;
    }
    const auto lost = static_cast<double>(fleet->ShardsOnlyOn(dead));
    losing += lost > 0.0 ? 1 : 0;
    shards += lost;
  }
  return {losing / static_cast<double>(kTrials), losing == 0 ? 0.0 : shards / losing};
}

// --- The run and its report.

double Minutes(Time time) { return static_cast<double>(time.count()) / 60e3; }

double Quantile(std::vector<Time> times, double quantile) {
  if (times.empty()) return 0.0;
  std::ranges::sort(times);
  const auto last = static_cast<double>(times.size() - 1);
  return Minutes(times[static_cast<std::size_t>(last * quantile)]);
}

void Run(const Options& options) {
  const auto began = std::chrono::steady_clock::now();
  Fleet fleet(options.fleet);
  fleet.FillWithin(24h);
  fleet.RunUntil(25h);
  const double balance_filled = fleet.Imbalance();
  FaultConfig none{0, 0, 0, 0, 0, 0, 0, 0};
  Faults faults(&fleet, options.faults ? FaultConfig{} : none, options.fleet.racks);
  const Time end = 24h * static_cast<std::int64_t>(options.days);
  fleet.RunUntil(std::max<Time>(fleet.now(), end / 2));
  fleet.AddNewcomers();
  double balance_worst = 0.0;
  while (fleet.now() < end) {
    fleet.RunUntil(std::min<Time>(end, fleet.now() + 24h));
    balance_worst = std::max(balance_worst, fleet.Imbalance());
  }
  double newcomers = 0.0;
  for (std::size_t i = options.fleet.servers; i < fleet.servers(); ++i) {
    newcomers += fleet.FullnessOf(i) / static_cast<double>(options.fleet.newcomers);
  }
  const Totals& totals = fleet.totals();
  const Catastrophe power = PowerFailures(&fleet, options.fleet.replicas);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  const double seconds = static_cast<double>(end.count()) / 1e3;
  std::printf(
      "{\"servers\": %zu, \"hosts\": %zu, \"days\": %zu, \"replicas\": %zu, \"width\": %zu, "
      "\"seed\": %zu,\n"
      " \"balance_filled\": %.3f, \"balance_end\": %.3f, \"balance_worst\": %.3f, "
      "\"newcomer_fullness\": %.3f,\n"
      " \"placed_gib\": %.1f, \"copied_gib\": %.1f, \"copies\": %zu, \"copies_failed\": %zu, "
      "\"copies_put_off\": %zu, \"copies_at_once_max\": %zu,\n"
      " \"losses\": %zu, \"repair_minutes_p50\": %.1f, \"repair_minutes_max\": %.1f, "
      "\"drains\": %zu, \"drain_minutes_p50\": %.1f,\n"
      " \"shards_lost\": %zu, \"shards_promoted\": %zu, \"debt_end\": %zu, \"unplaced\": %zu,\n"
      " \"power_failures_losing\": %.3f, \"power_failure_shards\": %.1f,\n"
      " \"messages_per_s\": %.1f, \"heartbeats_per_s\": %.0f, \"took_s\": %.1f}\n",
      fleet.servers(), options.fleet.hosts, options.days, options.fleet.replicas,
      options.fleet.width, options.fleet.seed, balance_filled, fleet.Imbalance(), balance_worst,
      newcomers, static_cast<double>(totals.bytes_placed) / (1 << 30),
      static_cast<double>(totals.bytes_copied) / (1 << 30), totals.copies, totals.copies_failed,
      totals.copies_put_off, totals.copies_at_once_max, faults.losses(),
      Quantile(totals.repairs, 0.5), Quantile(totals.repairs, 1.0), faults.drains().size(),
      Quantile(faults.drains(), 0.5), fleet.Lost(), totals.promoted, fleet.Debt(), totals.unplaced,
      power.losing, power.shards, static_cast<double>(totals.messages) / seconds,
      fleet.HeartbeatsPerSecond(), took.count());
}

}  // namespace
}  // namespace farswap::sim

int main(int argc, char** argv) {
  farswap::sim::Run(farswap::sim::Parse(argc, argv));
  return 0;
}
