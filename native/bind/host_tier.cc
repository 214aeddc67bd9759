// HostEngine: statistics, writeback, cgroups and settings of the tier.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/host_engine.h"

namespace farswap::bind {
namespace {

using NoGil = nb::call_guard<nb::gil_scoped_release>;
using NamedCompressor = std::pair<std::string, int>;

tier::Compressor CompressorFrom(const std::string& codec, int level) {
  if (codec != "lz4" && codec != "zstd") {
    throw nb::value_error(("\"" + codec + "\" is not a compressor; use lz4 or zstd").c_str());
  }
  const tier::Compressor compressor{codec == "lz4" ? tier::Codec::kLz4 : tier::Codec::kZstd, level};
  const Outcome valid = tier::Validate(compressor);
  if (!valid.ok()) throw nb::value_error(valid.error().message.c_str());
  return compressor;
}

std::optional<NamedCompressor> NameOf(const std::optional<tier::Compressor>& compressor) {
  if (!compressor) return std::nullopt;
  return NamedCompressor{compressor->codec == tier::Codec::kLz4 ? "lz4" : "zstd",
                         compressor->level};
}

std::optional<std::uint64_t> OptionalLimit(std::uint64_t limit) {
  if (limit == tier::kNoLimit) return std::nullopt;
  return limit;
}

// By name, and under the equivalent names of /proc/vmstat.
nb::dict CounterDict(const tier::CounterValues& values) {
  nb::dict counters;
  for (std::size_t i = 0; i < tier::kCounterCount; ++i) {
    counters[tier::CounterName(static_cast<tier::Counter>(i))] = values[i];
  }
  const auto of = [&](tier::Counter counter) { return values[static_cast<std::size_t>(counter)]; };
  counters["zswpin"] = of(tier::Counter::loads_same_filled) + of(tier::Counter::loads_local);
  counters["zswpout"] = of(tier::Counter::stores);
  counters["zswpwb"] = of(tier::Counter::written_back_pages);
  return counters;
}

nb::dict Stats(Engine& self) {
  const tier::TierStats stats = [&] {
    nb::gil_scoped_release release;
    return self.tier().Stats();
  }();
  nb::dict out = CounterDict(stats.counters);
  out["pool_limit_bytes"] = stats.pool_limit_bytes;
  out["pool_used_bytes"] = stats.pool_used_bytes;
  out["pool_entry_bytes"] = stats.pool_entry_bytes;
  out["pool_payload_bytes"] = stats.pool_payload_bytes;
  out["metadata_bytes"] = stats.metadata_bytes;
  out["accept_threshold_percent"] = stats.accept_threshold_percent;
  out["same_filled_pages"] = stats.pages.same_filled;
  out["local_pages"] = stats.pages.local;
  out["writing_pages"] = stats.pages.writing;
  out["clean_pages"] = stats.pages.clean;
  out["remote_pages"] = stats.pages.remote;
  out["raw_pages"] = stats.pages.raw;
  out["shrinking"] = static_cast<int>(stats.shrinking);
  return out;
}

nb::dict CounterHelp() {
  nb::dict help;
  for (std::size_t i = 0; i < tier::kCounterCount; ++i) {
    const auto counter = static_cast<tier::Counter>(i);
    help[tier::CounterName(counter)] = tier::CounterDescription(counter);
  }
  return help;
}

void Configure(Engine& self, tier::CgroupId id, std::optional<std::uint64_t> pool_limit_bytes,
               bool writeback, std::optional<std::uint64_t> remote_pages_max,
               const std::optional<NamedCompressor>& compressor) {
  tier::GroupSettings settings;
  settings.pool_limit_bytes = pool_limit_bytes.value_or(tier::kNoLimit);
  settings.writeback = writeback;
  settings.remote_pages_max = remote_pages_max.value_or(tier::kNoLimit);
  if (compressor) settings.compressor = CompressorFrom(compressor->first, compressor->second);
  nb::gil_scoped_release release;
  if (!self.tier().ConfigureCgroup(id, settings)) {
    throw std::runtime_error("too many cgroups have pages or settings");
  }
}

void SetRecompression(Engine& self, const std::string& codec, int level) {
  if (codec.empty()) return self.tier().SetRecompression(std::nullopt);
  if (codec != "zstd") throw nb::value_error("recompression supports only zstd");
  self.tier().SetRecompression(CompressorFrom(codec, level));
}

void SetPacking(Engine& self, bool on) {
  const Outcome done = self.tier().SetPacking(on);
  if (!done.ok()) throw std::runtime_error(done.error().message);
}

void SetLimits(Engine& self, std::uint64_t pool_limit_bytes, std::uint32_t percent) {
  const Outcome done = self.tier().SetLimits(pool_limit_bytes, percent);
  if (!done.ok()) throw nb::value_error(done.error().message.c_str());
}

std::vector<tier::CgroupId> SlotOwners(Engine& self, std::uint64_t first, std::uint64_t count) {
  if (first + count > self.tier().slots() || first + count < first) {
    throw nb::index_error("slots are beyond the end of the device");
  }
  std::vector<tier::CgroupId> owners(count);
  nb::gil_scoped_release release;
  self.tier().OwnersOf(static_cast<tier::SlotIndex>(first), owners);
  return owners;
}

SlotExplanation Explain(Engine& self, std::uint64_t slot) {
  const std::uint64_t slots = self.tier().slots();
  if (slot >= slots) {
    throw nb::index_error(("slot " + std::to_string(slot) +
                           " is beyond the end of the device: it has " + std::to_string(slots) +
                           " slots")
                              .c_str());
  }
  nb::gil_scoped_release release;
  const auto index = static_cast<tier::SlotIndex>(slot);
  return {self.tier().Explain(index), slot, self.cluster().ReplicasOf(index)};
}

void BindGroups(nb::module_& m) {
  nb::class_<tier::LatencyStats>(m, "Latency", "Loads by duration.")
      .def_prop_ro(
          "buckets",
          [](const tier::LatencyStats& self) {
            return std::vector<std::uint64_t>(self.buckets.begin(), self.buckets.end());
          },
          "Bucket i: loads of at least 2**(i-1) and less than 2**i us; the last one: all longer "
          "ones.")
      .def_ro("sum_ns", &tier::LatencyStats::sum_ns);
  using Group = tier::GroupStats;
  nb::class_<Group>(m, "CgroupRecord",
                    "State of a cgroup in the tier. The root group has id 0 until it is placed.")
      .def_ro("id", &Group::id)
      .def_ro("parent", &Group::parent)
      .def_ro("placed", &Group::placed)
      .def_prop_ro("pool_limit_bytes",
                   [](const Group& self) { return OptionalLimit(self.settings.pool_limit_bytes); })
      .def_prop_ro("writeback", [](const Group& self) { return self.settings.writeback; })
      .def_prop_ro("remote_pages_max",
                   [](const Group& self) { return OptionalLimit(self.settings.remote_pages_max); })
      .def_prop_ro("compressor", [](const Group& self) { return NameOf(self.settings.compressor); })
      .def_ro("pool_bytes", &Group::pool_bytes)
      .def_ro("tree_pool_bytes", &Group::tree_pool_bytes)
      .def_ro("tree_remote_pages", &Group::tree_remote_pages)
      .def_prop_ro("same_filled_pages", [](const Group& self) { return self.pages.same_filled; })
      .def_prop_ro("local_pages", [](const Group& self) { return self.pages.local; })
      .def_prop_ro("writing_pages", [](const Group& self) { return self.pages.writing; })
      .def_prop_ro("clean_pages", [](const Group& self) { return self.pages.clean; })
      .def_prop_ro("remote_pages", [](const Group& self) { return self.pages.remote; })
      .def_prop_ro("raw_pages", [](const Group& self) { return self.pages.raw; })
      .def_prop_ro(
          "counters", [](const Group& self) { return CounterDict(self.counters); },
          nb::sig("def counters(self) -> dict[str, int]"))
      .def_prop_ro(
          "latency",
          [](const Group& self) {
            nb::dict latency;
            latency["local"] = self.local_latency;
            latency["remote"] = self.remote_latency;
            return latency;
          },
          nb::sig("def latency(self) -> dict[str, Latency]"),
          "local: from the pool, same-filled or empty, sampled; remote: from memory servers.");
}

void BindRecords(nb::module_& m) {
  using Progress = tier::ManualWriteback;
  nb::class_<Progress>(m, "WritebackProgress")
      .def_ro("target_bytes", &Progress::target_bytes)
      .def_ro("written_bytes", &Progress::written_bytes)
      .def_ro("sent_bytes", &Progress::sent_bytes)
      .def_ro("finished", &Progress::finished)
      .def_prop_ro("stopped_because",
                   [](const Progress& self) { return std::string(self.stopped_because); });
  nb::class_<SlotExplanation>(m, "SlotExplanation")
      .def_ro("slot", &SlotExplanation::slot)
      .def_prop_ro("state", [](const SlotExplanation& self) { return std::string(self.state); })
      .def_ro("version", &SlotExplanation::version)
      .def_prop_ro("codec",
                   [](const SlotExplanation& self) { return static_cast<int>(self.codec); })
      .def_ro("size_bytes", &SlotExplanation::size_bytes)
      .def_ro("stored_boot_s", &SlotExplanation::stored_boot_s)
      .def_ro("fill", &SlotExplanation::fill)
      .def_ro("cgroup", &SlotExplanation::cgroup)
      .def_ro("referenced", &SlotExplanation::referenced)
      .def_ro("verified", &SlotExplanation::verified)
      .def_ro("problem", &SlotExplanation::problem)
      .def_ro("replicas", &SlotExplanation::replicas);
}

}  // namespace

void BindHostTier(nb::module_& m, nb::class_<Engine>& engine) {
  using namespace nb::literals;
  BindRecords(m);
  BindGroups(m);
  m.def("counter_help", &CounterHelp, nb::sig("def counter_help() -> dict[str, str]"),
        "Help texts of the tier's counters, by name.");
  engine
      .def("stats", &Stats, nb::sig("def stats(self) -> dict[str, int]"),
           "Gauges and counters of the tier by name.")
      .def("explain", &Explain, "slot"_a,
           "State of a slot's page; reads the page, also from a server, to verify it. IndexError.")
      .def("slot_owners", &SlotOwners, "first"_a, "count"_a,
           "Cgroup id of each slot's page; 0: empty, or the root group. IndexError.")
      .def(
          "start_writeback",
          [](Engine& self, std::uint64_t bytes, tier::CgroupId cgroup, std::uint32_t older_than_s) {
            return self.tier().StartManualWriteback({bytes, cgroup, older_than_s});
          },
          NoGil(), "bytes"_a, "cgroup"_a = 0, "older_than_s"_a = 0,
          "Starts writeback of the coldest pages, `bytes` before compression, of a cgroup and its "
          "descendants (0: all), stored at least `older_than_s` ago. False if a job is running.")
      .def(
          "cancel_writeback", [](Engine& self) { self.tier().CancelManualWriteback(); }, NoGil())
      .def(
          "writeback_progress", [](Engine& self) { return self.tier().ManualWritebackProgress(); },
          NoGil())
      .def(
          "write_back_proactively",
          [](Engine& self, tier::CgroupId cgroup, std::uint64_t pages, std::uint32_t age_s) {
            self.tier().WriteBackProactively(cgroup, pages, age_s);
          },
          NoGil(), "cgroup"_a, "pages"_a, "older_than_s"_a,
          "Writes back a cgroup's coldest pages, without its descendants, at low priority.")
      .def(
          "cgroups", [](Engine& self) { return self.tier().CgroupStats(); }, NoGil(),
          "All groups with pages, a place or settings, the root group first.")
      .def(
          "place_cgroup",
          [](Engine& self, tier::CgroupId id, tier::CgroupId parent) {
            return self.tier().PlaceCgroup(id, parent);
          },
          NoGil(), "id"_a, "parent"_a,
          "Places a cgroup below a placed parent (0: the root; its own id: it is the root). False "
          "if "
          "the parent is not placed, the cgroup has another parent, or there are too many groups.")
      .def(
          "remove_cgroup", [](Engine& self, tier::CgroupId id) { self.tier().RemoveCgroup(id); },
          NoGil(), "id"_a, "Removes a cgroup; its pages, including later ones, are reparented.")
      .def("configure_cgroup", &Configure, "id"_a, nb::kw_only(), "pool_limit_bytes"_a.none(),
           "writeback"_a, "remote_pages_max"_a.none(), "compressor"_a.none(),
           "Sets all of a cgroup's settings. ValueError; RuntimeError: too many cgroups.")
      .def(
          "set_compressor",
          [](Engine& self, const std::string& codec, int level) {
            self.tier().SetCompressor(CompressorFrom(codec, level));
          },
          "codec"_a, "level"_a,
          "Compressor of later stores: lz4 with acceleration, or zstd with level.")
      .def("set_recompress", &SetRecompression, "codec"_a, "level"_a,
           "Compressor of entries before they are sent; \"\": none.")
      .def("set_packing", &SetPacking, "on"_a,
           "Whether cold neighbours are sent as bundles of up to 16 pages. RuntimeError if memory "
           "is "
           "short.")
      .def("set_limits", &SetLimits, "pool_limit_bytes"_a, "accept_threshold_percent"_a,
           "ValueError if out of range, or more than was allocated at start.");
}

}  // namespace farswap::bind
