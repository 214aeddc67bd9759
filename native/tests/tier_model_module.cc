// The real tier over a MemoryRemote, for a state machine in Python (tests/property) that compares
// it with a plain model. Python decides and remembers; the code that touches pages' bytes is here.
//
// A page is named by a number, its stamp: kind + 8 * number (PageKind, FillNumbered), 0 for a slot
// that holds nothing. Arrays cross as bytes of native integers: u32 stamps and cgroup ids, u64 slot
// words, u8 outcomes. Checks return what is wrong in words, "" if nothing is.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "awaited_io.h"
#include "memory_remote.h"
#include "stamped_page.h"
#include "tier/tier.h"
#include "waiter.h"

namespace nb = nanobind;

namespace farswap::tier {
namespace {

using std::chrono::milliseconds;
using Level = std::pair<std::string, int>;  // "lz4" or "zstd", and its level

void FillPageOf(Stamp stamp, std::byte* page) {
  FillNumbered(static_cast<PageKind>(stamp % 8), stamp / 8, page);
}

bool IsPageOf(Stamp stamp, const std::byte* page) {
  Page expected;
  FillPageOf(stamp, expected.data());
  return std::memcmp(page, expected.data(), kPageBytes) == 0;
}

template <typename T>
std::vector<T> FromBytes(const nb::bytes& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.c_str(), values.size() * sizeof(T));
  return values;
}

template <typename T>
nb::bytes ToBytes(const std::vector<T>& values) {
  return nb::bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

std::optional<Compressor> CompressorOf(const std::optional<Level>& level) {
  if (!level) return std::nullopt;
  return Compressor{level->first == "lz4" ? Codec::kLz4 : Codec::kZstd, level->second};
}

// Ages are measured by a clock that Python moves.
std::atomic<std::uint32_t> clock_seconds{1'000'000};

class ModelTier {
 public:
  ModelTier(std::uint64_t slots, std::uint64_t pool_bytes, std::uint64_t store_wait_ms)
      : words_(slots) {
    TierConfig config;
    config.slots = slots;
    config.pool_bytes_max = pool_bytes;
    config.store_wait = milliseconds(store_wait_ms);
    config.boot_seconds = [] { return clock_seconds.load(); };
    auto made = Tier::Create(config, &remote_);
    if (!made.ok()) throw std::runtime_error(made.error().message);
    tier_ = std::move(made.value());
  }
  ~ModelTier() { Close(); }

  void Close() {
    remote_.Release();
    for (const auto& fetch : fetches_) {
      if (fetch != nullptr) fetch->Wait();
    }
    if (tier_ != nullptr) tier_->StopWriteback();
  }

  // --- Pages

  nb::bytes Store(SlotIndex first, const nb::bytes& stamp_bytes) {
    const auto stamps = FromBytes<Stamp>(stamp_bytes);
    std::vector<IoStatus> statuses(stamps.size());
    {
      const nb::gil_scoped_release release;
      Page page;
      for (std::size_t i = 0; i < stamps.size(); ++i) {
        FillPageOf(stamps[i], page.data());
        statuses[i] = StoreWait(*tier_, first + static_cast<SlotIndex>(i), page.data());
      }
    }
    return ToBytes(statuses);
  }

  /// Reads from pool or servers: (status, whether it is the stamp's page).
  std::pair<IoStatus, bool> LoadWait(SlotIndex slot, Stamp stamp) {
    Page page{};
    const IoStatus status = tier::LoadWait(*tier_, slot, page.data());
    return {status, status == IoStatus::kOk && IsPageOf(stamp, page.data())};
  }

  /// Compares the pages that are here; u8 a page: 0 right, 1 wrong, 2 remote, 3 an I/O error.
  nb::bytes Load(SlotIndex first, const nb::bytes& stamp_bytes) {
    const auto stamps = FromBytes<Stamp>(stamp_bytes);
    std::vector<std::uint8_t> found(stamps.size());
    {
      const nb::gil_scoped_release release;
      Page page;
      for (std::size_t i = 0; i < stamps.size(); ++i) {
        page.fill(std::byte{0xa5});
        const auto result = tier_->Load(first + static_cast<SlotIndex>(i), page.data());
        if (result == Tier::LoadResult::kDone) found[i] = IsPageOf(stamps[i], page.data()) ? 0 : 1;
        if (result == Tier::LoadResult::kRemote) found[i] = 2;
        if (result == Tier::LoadResult::kIoError) found[i] = 3;
      }
    }
    return ToBytes(found);
  }

  void Trim(SlotIndex first, std::uint64_t count) { tier_->Invalidate(first, count); }

  std::size_t StartFetch(SlotIndex first, std::size_t count) {
    std::vector<SlotIndex> slots(count);
    std::iota(slots.begin(), slots.end(), first);
    fetches_.push_back(std::make_unique<AwaitedFetch>(slots));
    tier_->Fetch(fetches_.back().get());
    return fetches_.size() - 1;
  }
  bool FetchDone(std::size_t id) { return fetches_[id]->ready(); }
  /// Waits for the end: (status, index of the page that is none of those allowed for it, or -1).
  std::pair<IoStatus, int> EndFetch(std::size_t id,
                                    const std::vector<std::vector<Stamp>>& allowed) {
    const std::unique_ptr<AwaitedFetch> fetch = std::move(fetches_[id]);
    const IoStatus status = fetch->Wait().value();
    for (std::size_t i = 0; status == IoStatus::kOk && i < allowed.size(); ++i) {
      const auto fits = [&](Stamp stamp) { return IsPageOf(stamp, fetch->pages[i].data()); };
      if (std::none_of(allowed[i].begin(), allowed[i].end(), fits)) {
        return {status, static_cast<int>(i)};
      }
    }
    return {status, -1};
  }

  /// What of these slots is wrong: content, and the cgroup it belongs to. Pages on the remote store
  /// are fetched if `remote_answers`. Slots whose `may_leave` is 0 must not be there.
  std::string Check(SlotIndex first, const nb::bytes& stamp_bytes, const nb::bytes& owner_bytes,
                    const nb::bytes& may_leave_bytes, bool remote_answers) {
    const auto stamps = FromBytes<Stamp>(stamp_bytes);
    const auto owners = FromBytes<CgroupId>(owner_bytes);
    const auto may_leave = FromBytes<std::uint8_t>(may_leave_bytes);
    const nb::gil_scoped_release release;
    std::vector<CgroupId> found(stamps.size());
    tier_->OwnersOf(first, found);
    Page page;
    for (std::size_t i = 0; i < stamps.size(); ++i) {
      const SlotIndex slot = first + static_cast<SlotIndex>(i);
      const std::string where = "slot " + std::to_string(slot);
      if (stamps[i] != 0 && found[i] != owners[i]) {
        return where + " belongs to " + std::to_string(found[i]) + ", not to " +
               std::to_string(owners[i]);
      }
      const Tier::LoadResult result = tier_->Load(slot, page.data());
      if (result == Tier::LoadResult::kIoError) return where + " cannot be read";
      if (result == Tier::LoadResult::kRemote) {
        if (!may_leave[i]) return where + " is remote, though its group may not write back";
        if (!remote_answers) continue;
        if (tier::LoadWait(*tier_, slot, page.data()) != IoStatus::kOk) {
          return where + " cannot be fetched";
        }
      }
      if (!IsPageOf(stamps[i], page.data())) {
        return where + " does not hold stamp " + std::to_string(stamps[i]);
      }
    }
    return "";
  }

  // --- Slot words

  void SetWords(SlotIndex first, const nb::bytes& word_bytes) {
    const auto words = FromBytes<SlotWord>(word_bytes);
    for (std::size_t i = 0; i < words.size(); ++i) words_[first + i].store(words[i]);
  }
  void UseWords(bool use) { tier_->UseSlotWords(use ? words_.data() : nullptr); }

  // --- Groups and settings

  bool Configure(CgroupId id, std::optional<std::uint64_t> pool_limit_bytes, bool writeback,
                 std::optional<std::uint64_t> remote_pages_max, std::optional<Level> compressor) {
    return tier_->ConfigureCgroup(
        id, {pool_limit_bytes.value_or(kNoLimit), writeback, remote_pages_max.value_or(kNoLimit),
             CompressorOf(compressor)});
  }
  static void AdvanceClock(std::uint32_t seconds) { clock_seconds += seconds; }
  void SetCompressor(const Level& level) { tier_->SetCompressor(*CompressorOf(level)); }
  void SetRecompression(const std::optional<Level>& level) {
    tier_->SetRecompression(CompressorOf(level));
  }
  bool SetLimits(std::uint64_t pool_bytes, std::uint32_t accept_threshold_percent) {
    return tier_->SetLimits(pool_bytes, accept_threshold_percent).ok();
  }

  // --- Writeback

  bool StartWriteback(std::uint64_t pages, CgroupId cgroup, std::uint32_t older_than_s) {
    return tier_->StartManualWriteback({pages * kPageBytes, cgroup, older_than_s});
  }
  /// Waits until no writeback is under way or begins by itself; false if that never comes.
  bool Settle(std::uint64_t timeout_ms) {
    const nb::gil_scoped_release release;
    int calm = 0;
    const auto settled = [&] {
      const TierStats stats = tier_->Stats();
      const bool busy = remote_.Unanswered() > 0 || stats.pages.writing > 0 || stats.shrinking ||
                        !tier_->ManualWritebackProgress().finished;
      calm = busy ? 0 : calm + 1;
      return calm == 3;
    };
    return Eventually(settled, milliseconds(timeout_ms));
  }
  /// Waits, a little, until pages are held on their way to the remote store.
  bool AwaitWriting(std::uint64_t timeout_ms) {
    const nb::gil_scoped_release release;
    return Eventually([this] { return tier_->Stats().pages.writing > 0; },
                      milliseconds(timeout_ms));
  }

  /// Waits, a little, until so many requests are held by the remote store.
  void AwaitRequests(std::size_t count, std::uint64_t timeout_ms) {
    const nb::gil_scoped_release release;
    Eventually([&] { return remote_.Unanswered() >= count; }, milliseconds(timeout_ms));
  }
  /// Waits, a little, until no page is on its way, whether it came back or not.
  void AwaitAnswers(std::uint64_t timeout_ms) {
    const nb::gil_scoped_release release;
    Eventually([this] { return tier_->Stats().pages.writing == 0; }, milliseconds(timeout_ms));
  }

  Tier& tier() { return *tier_; }
  MemoryRemote& remote() { return remote_; }

 private:
  MemoryRemote remote_;  // outlives the tier
  std::vector<std::atomic<SlotWord>> words_;
  std::unique_ptr<Tier> tier_;
  std::vector<std::unique_ptr<AwaitedFetch>> fetches_;  // by id; nullptr: ended
};

std::uint64_t CountOf(const CounterValues& counters, Counter counter) {
  return counters[static_cast<std::size_t>(counter)];
}

std::uint64_t HeldByCounters(const CounterValues& counters) {
  return CountOf(counters, Counter::stores) - CountOf(counters, Counter::overwrites) -
         CountOf(counters, Counter::trims) - CountOf(counters, Counter::early_frees) -
         CountOf(counters, Counter::lost_failed_store);
}

bool IsWithin(const std::vector<GroupStats>& groups, const GroupStats& group,
              const GroupStats& ancestor) {
  const GroupStats* above = &group;
  while (above != &ancestor && above != &groups.front()) {
    above = &*std::find_if(groups.begin(), groups.end(),
                           [&](const GroupStats& each) { return each.id == above->parent; });
  }
  return above == &ancestor;
}

/// The invariants of stored pages and of pool bytes, in total, for each group and along the tree.
std::string BrokenInvariant(const TierStats& stats, const std::vector<GroupStats>& groups) {
  if (stats.pages.held() != HeldByCounters(stats.counters)) return "held pages in total";
  if (stats.pool_payload_bytes > stats.pool_entry_bytes) return "payload larger than entries";
  if (stats.pool_entry_bytes > stats.pool_used_bytes) return "entries larger than slabs";
  std::uint64_t pool_bytes = 0;
  PageCounts pages;
  for (const GroupStats& group : groups) {
    const std::string which = " of group " + std::to_string(group.id);
    if (group.pages.held() != HeldByCounters(group.counters)) return "held pages" + which;
    std::uint64_t tree_pool_bytes = 0;
    std::uint64_t tree_remote_pages = 0;
    for (const GroupStats& other : groups) {
      if (!IsWithin(groups, other, group)) continue;
      tree_pool_bytes += other.pool_bytes;
      tree_remote_pages += other.pages.writing + other.pages.clean + other.pages.remote;
    }
    if (tree_pool_bytes != group.tree_pool_bytes) return "pool bytes of the tree" + which;
    if (tree_remote_pages != group.tree_remote_pages) return "remote pages of the tree" + which;
    pool_bytes += group.pool_bytes;
    pages.same_filled += group.pages.same_filled;
    pages.local += group.pages.local;
    pages.writing += group.pages.writing;
    pages.clean += group.pages.clean;
    pages.remote += group.pages.remote;
    pages.raw += group.pages.raw;
  }
  if (pool_bytes != stats.pool_entry_bytes) return "pool bytes of all groups";
  const bool same = pages.same_filled == stats.pages.same_filled &&
                    pages.local == stats.pages.local && pages.writing == stats.pages.writing &&
                    pages.clean == stats.pages.clean && pages.remote == stats.pages.remote &&
                    pages.raw == stats.pages.raw;
  return same ? "" : "pages of all groups";
}

/// Counts are exact only while nothing is under way, so what is wrong must stay wrong.
std::string CheckInvariants(ModelTier& self) {
  const nb::gil_scoped_release release;
  std::string broken;
  const auto right = [&] {
    broken = BrokenInvariant(self.tier().Stats(), self.tier().CgroupStats());
    return broken.empty();
  };
  return Eventually(right) ? "" : broken;
}

nb::dict Counters(const CounterValues& values) {
  nb::dict counters;
  for (std::size_t i = 0; i < kCounterCount; ++i) {
    counters[CounterName(static_cast<Counter>(i))] = values[i];
  }
  return counters;
}

void BindStatistics(nb::module_& m) {
  nb::class_<PageCounts>(m, "PageCounts")
      .def_ro("same_filled", &PageCounts::same_filled)
      .def_ro("local", &PageCounts::local)
      .def_ro("writing", &PageCounts::writing)
      .def_ro("clean", &PageCounts::clean)
      .def_ro("remote", &PageCounts::remote)
      .def_ro("raw", &PageCounts::raw)
      .def_prop_ro("held", &PageCounts::held);
  nb::class_<GroupStats>(m, "GroupStats")
      .def_ro("id", &GroupStats::id)
      .def_ro("parent", &GroupStats::parent)
      .def_ro("placed", &GroupStats::placed)
      .def_ro("pages", &GroupStats::pages)
      .def_ro("pool_bytes", &GroupStats::pool_bytes)
      .def_ro("tree_pool_bytes", &GroupStats::tree_pool_bytes)
      .def_ro("tree_remote_pages", &GroupStats::tree_remote_pages)
      .def_prop_ro("counters", [](const GroupStats& self) { return Counters(self.counters); });
  nb::class_<TierStats>(m, "TierStats")
      .def_ro("pages", &TierStats::pages)
      .def_ro("pool_limit_bytes", &TierStats::pool_limit_bytes)
      .def_ro("pool_used_bytes", &TierStats::pool_used_bytes)
      .def_ro("pool_entry_bytes", &TierStats::pool_entry_bytes)
      .def_ro("shrinking", &TierStats::shrinking)
      .def_prop_ro("counters", [](const TierStats& self) { return Counters(self.counters); });
  nb::class_<Explanation>(m, "Explanation")
      .def_prop_ro("state", [](const Explanation& self) { return std::string(self.state); })
      .def_ro("cgroup", &Explanation::cgroup)
      .def_ro("verified", &Explanation::verified);
  nb::enum_<IoStatus>(m, "IoStatus", nb::is_arithmetic())
      .value("OK", IoStatus::kOk)
      .value("NO_SPACE", IoStatus::kNoSpace)
      .value("IO_ERROR", IoStatus::kIoError);
  nb::enum_<PutResult>(m, "PutResult")
      .value("ACKED", PutResult::kAcked)
      .value("SUPERSEDED", PutResult::kSuperseded)
      .value("SERVER_FULL", PutResult::kServerFull)
      .value("REJECTED", PutResult::kRejected)
      .value("UNAVAILABLE", PutResult::kUnavailable);
  nb::enum_<GetResult>(m, "GetResult")
      .value("FOUND", GetResult::kFound)
      .value("NOT_FOUND", GetResult::kNotFound)
      .value("CORRUPT", GetResult::kCorrupt)
      .value("UNAVAILABLE", GetResult::kUnavailable);
}

void BindRemote(nb::class_<ModelTier>& tier) {
  using namespace nb::literals;
  tier.def("hold", [](ModelTier& self) { self.remote().Hold(); })
      .def("hold_puts", [](ModelTier& self) { self.remote().HoldPuts(); })
      .def("release", [](ModelTier& self) { self.remote().Release(); })
      .def(
          "fail_puts",
          [](ModelTier& self, PutResult as, std::size_t after) {
            self.remote().FailPuts(as, after);
          },
          "result"_a, "after"_a = 0)
      .def("lose_put_answers", [](ModelTier& self) { self.remote().LosePutAnswers(); })
      .def("fail_gets", [](ModelTier& self, GetResult as) { self.remote().FailGets(as); })
      .def("set_writable", [](ModelTier& self, bool is) { self.remote().SetWritable(is); })
      .def("remote_has", [](ModelTier& self, SlotIndex slot) { return self.remote().Has(slot); })
      .def("remote_objects", [](ModelTier& self) { return self.remote().pages(); });
}

void BindGroups(nb::class_<ModelTier>& tier) {
  using namespace nb::literals;
  using NoGil = nb::call_guard<nb::gil_scoped_release>;
  tier.def("set_words", &ModelTier::SetWords)
      .def("use_words", &ModelTier::UseWords, "use"_a)
      .def("on_slot_free", [](ModelTier& self, SlotIndex s) { return self.tier().OnSlotFree(s); })
      .def("set_label", [](ModelTier& self, CgroupId id) { self.tier().SetLabel(id); })
      .def("place", [](ModelTier& self, CgroupId id,
                       CgroupId parent) { return self.tier().PlaceCgroup(id, parent); })
      .def("remove", [](ModelTier& self, CgroupId id) { self.tier().RemoveCgroup(id); })
      .def("configure", &ModelTier::Configure, "id"_a, nb::kw_only(), "pool_limit_bytes"_a.none(),
           "writeback"_a, "remote_pages_max"_a.none(), "compressor"_a.none())
      .def("set_compressor", &ModelTier::SetCompressor)
      .def("set_recompression", &ModelTier::SetRecompression, "level"_a.none())
      .def("set_packing", [](ModelTier& self, bool on) { return self.tier().SetPacking(on).ok(); })
      .def("advance_clock", [](ModelTier&, std::uint32_t by) { ModelTier::AdvanceClock(by); })
      .def("set_limits", &ModelTier::SetLimits)
      .def("groups", [](ModelTier& self) { return self.tier().CgroupStats(); })
      .def("stats", [](ModelTier& self) { return self.tier().Stats(); })
      .def("start_writeback", &ModelTier::StartWriteback, "pages"_a, "cgroup"_a = 0,
           "older_than_s"_a = 0)
      .def("cancel_writeback", [](ModelTier& self) { self.tier().CancelManualWriteback(); })
      .def("write_back_proactively",
           [](ModelTier& self, CgroupId id, std::uint64_t pages, std::uint32_t older_than_s) {
             self.tier().WriteBackProactively(id, pages, older_than_s);
           })
      .def("await_writing", &ModelTier::AwaitWriting, "timeout_ms"_a)
      .def("await_requests", &ModelTier::AwaitRequests, "count"_a, "timeout_ms"_a)
      .def("await_answers", &ModelTier::AwaitAnswers, "timeout_ms"_a)
      .def("settle", &ModelTier::Settle, "timeout_ms"_a)
      .def(
          "stop_writeback", [](ModelTier& self) { self.tier().StopWriteback(); }, NoGil());
}

NB_MODULE(tier_model, m) {
  using namespace nb::literals;
  using NoGil = nb::call_guard<nb::gil_scoped_release>;
  m.doc() = "The native tier over a remote store in memory, for tests.";
  BindStatistics(m);
  nb::class_<ModelTier> tier(m, "ModelTier");
  tier.def(nb::init<std::uint64_t, std::uint64_t, std::uint64_t>(), nb::kw_only(), "slots"_a,
           "pool_bytes"_a, "store_wait_ms"_a)
      .def("close", &ModelTier::Close, NoGil())
      .def("store", &ModelTier::Store)
      .def("load", &ModelTier::Load)
      .def("load_wait", &ModelTier::LoadWait, NoGil())
      .def("trim", &ModelTier::Trim, NoGil())
      .def("start_fetch", &ModelTier::StartFetch, NoGil())
      .def("fetch_done", &ModelTier::FetchDone)
      .def("end_fetch", &ModelTier::EndFetch, NoGil())
      .def(
          "explain", [](ModelTier& self, SlotIndex s) { return self.tier().Explain(s); }, NoGil())
      .def("check", &ModelTier::Check)
      .def("check_invariants", &CheckInvariants);
  BindRemote(tier);
  BindGroups(tier);
}

}  // namespace
}  // namespace farswap::tier
