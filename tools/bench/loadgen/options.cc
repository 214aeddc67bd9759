#include "loadgen/options.h"

#include <charconv>
#include <string_view>

#include "loadgen/corpus.h"

namespace farswap::bench {
namespace {

constexpr std::array<const char*, kOpCount> kOpNames = {"read", "write", "trim", "zero", "flush"};

Result<std::uint64_t> ParseNumber(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view suffix(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (error != std::errc() || suffix.size() > 1) {
    return Error{"not a number: " + std::string(text)};
  }
  if (suffix == "k") {
    return value << 10;
  }
  if (suffix == "m") {
    return value << 20;
  }
  if (!suffix.empty()) {
    return Error{"not a number: " + std::string(text)};
  }
  return value;
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) {
      return parts;
    }
    text.remove_prefix(at + 1);
  }
}

Outcome ParseMix(std::string_view text, Phase* phase) {
  phase->weights.fill(0);
  for (std::string_view part : Split(text, '/')) {
    const std::size_t colon = part.find(':');
    const std::string_view name = part.substr(0, colon);
    std::uint64_t weight = 1;
    if (colon != std::string_view::npos) {
      auto number = ParseNumber(part.substr(colon + 1));
      if (!number.ok()) {
        return number.error();
      }
      weight = number.value();
    }
    bool known = false;
    for (std::size_t op = 0; op < kOpCount; ++op) {
      if (name == kOpNames[op]) {
        phase->weights[op] = static_cast<std::uint32_t>(weight);
        known = true;
      }
    }
    if (!known) {
      return Error{"unknown operation in mix: " + std::string(name)};
    }
  }
  return std::monostate{};
}

Outcome ParseSize(std::string_view text, Phase* phase) {
  const std::size_t dash = text.find('-');
  auto low = ParseNumber(text.substr(0, dash));
  auto high = ParseNumber(dash == std::string_view::npos ? text : text.substr(dash + 1));
  if (!low.ok() || !high.ok()) {
    return Error{"size is BYTES or BYTES-BYTES: " + std::string(text)};
  }
  phase->request_pages_min = low.value() / kPageBytes;
  phase->request_pages_max = high.value() / kPageBytes;
  if (low.value() % kPageBytes != 0 || high.value() % kPageBytes != 0 ||
      phase->request_pages_min == 0 || phase->request_pages_max < phase->request_pages_min ||
      phase->request_pages_max > kStripeSlots) {
    return Error{"sizes are multiples of 4096, to 256k: " + std::string(text)};
  }
  return std::monostate{};
}

Outcome ParseOrder(std::string_view text, Phase* phase) {
  if (text == "random") {
    phase->order = Order::kRandom;
  } else if (text == "sequential") {
    phase->order = Order::kSequential;
  } else if (text == "once") {
    phase->order = Order::kOnce;
  } else if (text == "once-random") {
    phase->order = Order::kOnceRandom;
  } else {
    return Error{"order is random, sequential, once or once-random, not " + std::string(text)};
  }
  return std::monostate{};
}

Outcome ParsePhaseNumber(std::string_view key, std::string_view text, Phase* phase) {
  auto number = ParseNumber(text);
  if (!number.ok()) {
    return number.error();
  }
  const std::uint64_t value = number.value();
  if (key == "depth") {
    phase->depth = static_cast<std::uint32_t>(value);
  } else if (key == "connections") {
    phase->connections = static_cast<std::uint32_t>(value);
  } else if (key == "ops") {
    phase->page_ops = value;
  } else if (key == "rate") {
    phase->rate = value;
  } else if (key == "milliseconds") {
    phase->seconds = static_cast<double>(value) / 1000.0;
  } else if (key == "first") {
    phase->first_slot = value;
  } else if (key == "count") {
    phase->slot_count = value;
  } else if (key == "skip_repeated") {
    phase->skip_repeated = value != 0;
  } else if (key == "fua") {
    phase->fua = value != 0;
  } else if (key == "wait") {
    phase->wait = value != 0;
  } else {
    return Error{"unknown key of a phase: " + std::string(key)};
  }
  return std::monostate{};
}

Outcome ValidatePhase(const Phase& phase) {
  const bool once = phase.order == Order::kOnce || phase.order == Order::kOnceRandom;
  if (phase.depth == 0 || phase.depth > 1024) {
    return Error{"phase " + phase.name + ": depth is 1..1024"};
  }
  if (!once && phase.page_ops == 0 && phase.seconds == 0) {
    return Error{"phase " + phase.name + ": needs ops or milliseconds"};
  }
  if (phase.order != Order::kRandom && phase.request_pages_min != phase.request_pages_max) {
    return Error{"phase " + phase.name + ": only order=random has a range of sizes"};
  }
  return std::monostate{};
}

Result<Phase> ParsePhase(std::string_view text) {
  Phase phase;
  const std::size_t colon = text.find(':');
  phase.name = std::string(text.substr(0, colon));
  if (colon == std::string_view::npos) {
    return Error{"a phase is NAME:key=value,..."};
  }
  for (std::string_view part : Split(text.substr(colon + 1), ',')) {
    const std::size_t equals = part.find('=');
    if (equals == std::string_view::npos) {
      return Error{"a phase is NAME:key=value,..., not " + std::string(part)};
    }
    const std::string_view key = part.substr(0, equals);
    const std::string_view value = part.substr(equals + 1);
    Outcome outcome = key == "mix"     ? ParseMix(value, &phase)
                      : key == "size"  ? ParseSize(value, &phase)
                      : key == "order" ? ParseOrder(value, &phase)
                                       : ParsePhaseNumber(key, value, &phase);
    if (!outcome.ok()) {
      return outcome.error();
    }
  }
  Outcome valid = ValidatePhase(phase);
  if (!valid.ok()) {
    return valid.error();
  }
  return phase;
}

Outcome ParseGlobalNumber(std::string_view name, std::string_view text, Options* options) {
  auto number = ParseNumber(text);
  if (!number.ok()) {
    return number.error();
  }
  const std::uint64_t value = number.value();
  if (name == "--connections" && value >= 1 && value <= 64) {
    options->connections = static_cast<std::uint32_t>(value);
  } else if (name == "--synthetic-pages" && value >= 8) {
    options->synthetic_pages = value;
  } else if (name == "--seed") {
    options->seed = value;
  } else if (name == "--stall-ms") {
    options->stall_ms = static_cast<std::uint32_t>(value);
  } else if (name == "--progress-ms") {
    options->progress_ms = static_cast<std::uint32_t>(value);
  } else {
    return Error{"unknown option or value out of range: " + std::string(name)};
  }
  return std::monostate{};
}

Outcome ParseValue(std::string_view name, std::string_view value, Options* options) {
  if (name == "--connect") {
    options->connect = std::string(value);
  } else if (name == "--export") {
    options->export_name = std::string(value);
  } else if (name == "--corpus") {
    options->corpus_path = std::string(value);
  } else if (name == "--phase") {
    auto phase = ParsePhase(value);
    if (!phase.ok()) {
      return phase.error();
    }
    options->phases.push_back(phase.value());
  } else {
    return ParseGlobalNumber(name, value, options);
  }
  return std::monostate{};
}

Outcome Validate(const Options& options) {
  if (options.connect.empty() || options.phases.empty()) {
    return Error{"--connect and at least one --phase are needed"};
  }
  if (options.shared && options.pure) {
    return Error{"--shared needs stamped pages, not --pure"};
  }
  if (options.pure && options.corpus_path.empty()) {
    return Error{"--pure needs --corpus"};
  }
  for (const Phase& phase : options.phases) {
    if (phase.connections > options.connections) {
      return Error{"phase " + phase.name + " uses more connections than there are"};
    }
    if (options.shared && phase.skip_repeated) {
      return Error{"--shared excludes skip_repeated"};
    }
  }
  return std::monostate{};
}

}  // namespace

const char* OpName(Op op) { return kOpNames[static_cast<std::size_t>(op)]; }

const char* const kUsage =
    "usage: farswap-loadgen --connect unix:PATH|tcp:HOST:PORT --phase NAME:key=value,... ...\n"
    "  --export NAME  --connections N  --corpus FILE [--pure]  --synthetic-pages N  --shared\n"
    "  --seed N  --stall-ms N  --progress-ms N\n"
    "keys of a phase: mix=read:60/write:30/trim:5/zero:5/flush:1  size=4k|4k-128k  depth=64\n"
    "  order=random|sequential|once|once-random  ops=PAGES  milliseconds=N  rate=PAGES\n"
    "  first=SLOT  count=SLOTS  connections=N  skip_repeated=1  fua=1  wait=1\n"
    "exit code: 0 every byte was right, 1 a wrong byte, 2 usage, 3 a stall, 4 connection lost\n";

Result<Options> ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--pure") {
      options.pure = true;
      continue;
    }
    if (name == "--shared") {
      options.shared = true;
      continue;
    }
    if (i + 1 == argc) {
      return Error{"unknown option, or its value is missing: " + std::string(name)};
    }
    ++i;
    Outcome outcome = ParseValue(name, argv[i], &options);
    if (!outcome.ok()) {
      return outcome.error();
    }
  }
  Outcome valid = Validate(options);
  if (!valid.ok()) {
    return valid.error();
  }
  return options;
}

}  // namespace farswap::bench
