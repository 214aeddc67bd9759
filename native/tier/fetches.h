// Fetches: reads pages wherever they are.
//
//   Load()      a page in the pool, same-filled or empty is copied: done
//   Start() ──▶ Continue(): Load() each page, Ask() for remote ones ──▶ RemoteStore::Get()
//                  ▲    │                                   │ OnObject()      │ OnMissing()
//                  │    │ nothing was asked for             ▼                 ▼
//                  │    ▼                                Judge(): verify,   GiveUp()
//                  │  PageFetch::OnFetched()             Settle() each page   │
//                  └───────────────────────── OnGetDone() ◀───┴───────────────┘
//
// A page that an object does not settle is judged again in the object of another replica, and given
// up when none is left.
//
// A page that is overwritten, trimmed or written back while it is fetched is read again from
// wherever it is then. A fetched page of the version that was asked for is good, whatever happened
// to its slot meanwhile, since the read began before that.
//
// A bundle that is fetched for one page brings neighbours. AdoptNeighbours() takes them into the
// pool as clean entries, which the shrinker drops without I/O, and first since they begin at the
// cold end. It does so only while the pool and the page's group are under their accept thresholds,
// and on the thread that answered the read, after the answer.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>

#include "tier/config.h"
#include "tier/page_device.h"
#include "tier/pages.h"
#include "tier/remote_store.h"

namespace farswap::tier {

class Fetches {
 public:
  /// All outlive it.
  Fetches(const TierConfig& config, RemoteStore* remote, Pages* pages)
      : config_(config), remote_(*remote), pages_(*pages) {}

  /// See PageDevice::Load(). Sets `seen`, if any, to the record of a page that is to be fetched.
  PageDevice::LoadResult Load(SlotIndex slot, std::byte* out, SlotRecord* seen);
  /// See PageDevice::Fetch().
  void Start(PageFetch* fetch);
  /// See Tier::Explain().
  Explanation Explain(SlotIndex slot);
  /// Returns when no thread adopts neighbours.
  void WaitForAdoptions();

  // --- For PageFetch

  void Continue(PageFetch* fetch);
  Verdict Judge(PageFetch* fetch, std::size_t index, const Object& object);
  void GiveUp(PageFetch* fetch, std::size_t index, GetResult why);

 private:
  struct Neighbours;

  void Ask(PageFetch* fetch, std::size_t page, const SlotRecord& record);
  bool Settle(PageFetch* fetch, std::size_t page, bool intact, std::optional<Counter> damage);
  static bool HasChanged(PageFetch* fetch, std::size_t page, const SlotRecord& record,
                         Group* group);
  void CountWait(const PageFetch& fetch);

  void PutOff(const Neighbours& neighbours);
  static void AdoptNeighbours();
  void AdoptAll(const Neighbours& of);
  bool Adopt(SlotIndex slot, Version version, const std::byte* page, std::uint32_t stored_boot_s);
  bool MayAdopt(GroupIndex group) const;

  const TierConfig& config_;
  RemoteStore& remote_;
  Pages& pages_;
  static thread_local std::optional<Neighbours> put_off_;  // until the fetch is answered
  std::mutex mutex_;                                       // guards the next two
  std::condition_variable adopted_;
  std::size_t adoptions_ = 0;  // put off or under way
};

}  // namespace farswap::tier
