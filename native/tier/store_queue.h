// Where stores wait for room: at the limit of a group, or for memory of the pool.
//
// A store that found no room stands in the line of the group whose limit it is, or in that of the
// root group, which is the pool's. One thread goes along the lines whenever there may be more room
// than before: writeback or compaction freed entries, a page was overwritten or trimmed, a limit or
// the tree has changed, a store came into line. A line is served in order, up to the first store
// that still does not fit; in the pool's line that is the first one of each size, since a page that
// finds no memory of its size says nothing of smaller ones. So a look at all lines costs one failed
// attempt for each, and whoever waits for one limit holds up nobody else. Stores that come while
// others of their group, or of their size, wait go behind them.
//
// A store leaves its line
//   - stored, when it fits;
//   - superseded, when a store that came later was stored in its slot or refused, or the slot was
//     trimmed or freed by the kernel: its page was stored before that, as far as anybody can tell.
//     A later store that only waits supersedes nothing, for it may be cancelled;
//   - refused, when writeback has freed nothing there for TierConfig::store_wait and no store there
//     has found room in any other way, at once when nothing there may leave the pool, and at the
//     end of writeback;
//   - cancelled.
// All but the last are told by OnStored(), from the thread and without a lock. The first three are
// decided under the lock of the store's slot, so that no page comes to a slot after a newer one.
//
// That the kernel freed the slot is what its word says (slot_words.h), when a notice comes or it is
// the store's turn: FREE, with another sequence than when the store came. The store's own write was
// in the word by then, so
//   - the word is FREE and has changed: the store's page was freed, or a later one was, and none
//     has been written since. A page that is on its way here comes into line behind that;
//   - FREE, and the same: the free may be that of the page before, of which the notice is late, if
//     the kernel's hook missed the write. To keep a page that nobody needs is the lesser evil;
//   - not FREE: the slot is in use, by the store's page or by a later one.
//
// Lock order: a slot's lock, then mutex_, then the pool's or the shrinker's.
#pragma once

#include <array>
#include <atomic>
#include <bitset>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "tier/codec.h"
#include "tier/owner.h"
#include "tier/page_device.h"
#include "tier/pages.h"
#include "tier/tier.h"

namespace farswap::tier {

/// What makes room for the stores that wait: the shrinker.
class RoomMaker {
 public:
  /// Makes it look around: a store was tried and found no room.
  virtual void Wake() = 0;
  /// A store of the group has taken an entry.
  virtual void AfterAllocation(GroupIndex group) = 0;

 protected:
  ~RoomMaker() = default;
};

class StoreQueue final : public RoomListener {
 public:
  static constexpr GroupIndex kNoLine = PendingStore::kNotInLine;

  /// All outlive it.
  StoreQueue(const TierConfig& config, Pages* pages, const SlotOwners* owners);
  ~StoreQueue() { Stop(); }

  /// Called before any store.
  void WaitFor(RoomMaker* room_maker) { room_maker_ = room_maker; }

  /// Refuses whatever waits and finds no room, and all who come, and ends the thread. Idempotent.
  void Stop();

  bool AnyWaiting() const { return waiting_.load() > 0; }

  /// Takes room for a store, but not before those that wait for the same room.
  Pages::Room TakeRoom(GroupIndex group, std::size_t object_bytes);
  /// Puts a store that found no room into the line of `full`. kPending: it is in line; otherwise
  /// its outcome.
  IoStatus Wait(PendingStore* store, SlotIndex slot, const Compressed& object, GroupIndex full);
  /// The slot has a newer page than any that waits, or none. Its lock is held.
  void Supersede(SlotIndex slot) {
    if (AnyWaiting()) TakeOut(slot);
  }
  /// The slot's word is FREE and has this sequence. False: none that waits was freed with it. The
  /// slot's lock is held.
  bool SupersedeFreed(SlotIndex slot, std::uint32_t sequence);
  bool Cancel(PendingStore* store);

  /// There may be room that was not there before, for stores of a group and in the pool, or for
  /// anybody. Called after it was made, with any lock held that comes before mutex_.
  void RoomMade(GroupIndex group) override {
    if (AnyWaiting() && LineAbove(group) != kNoLine) LookAgain();
  }
  void RoomMade() {
    if (AnyWaiting()) LookAgain();
  }

  /// Whether stores wait there, and writeback has freed nothing since one of them was tried: the
  /// shrinker is to make room whatever the marks say.
  bool WantsRoom(GroupIndex group);

 private:
  using Clock = std::chrono::steady_clock;

  struct Line {
    std::atomic<std::uint64_t> stores{0};
    PendingStore* first = nullptr;
    PendingStore* last = nullptr;
    std::uint64_t tried_at_progress = kNever;  // of the group, what the last attempt may have seen
    // A shortage: stores find no room there, writeback frees nothing and none that waits fits.
    Clock::time_point full_since{};
    Clock::time_point last_full{};
    std::uint64_t progress_when_full = 0;
  };

  static constexpr std::uint64_t kNever = ~std::uint64_t{0};

  Clock::time_point Now() const;
  static std::size_t SizeOf(std::size_t object_bytes) {
    return Pool::EntryBytes(object_bytes) / Pool::kAlignBytes;
  }
  static constexpr std::size_t kSizes = (sizeof(Entry) + kPageBytes) / Pool::kAlignBytes + 1;
  using Sizes = std::bitset<kSizes>;
  static constexpr std::size_t kBuckets = 1024;

  GroupIndex LineOf(GroupIndex group, std::size_t object_bytes);
  bool Enter(PendingStore* store, GroupIndex full);
  IoStatus Keep(const PendingStore& store, EntryRef entry);
  IoStatus Refuse(SlotIndex slot, GroupIndex full);
  void CountWait(GroupIndex group, GroupIndex full);

  void Run();
  void ServeLine(std::unique_lock<std::mutex>& lock, GroupIndex at);
  PendingStore* NextInLine(GroupIndex at, const Sizes& full) const;
  bool Serve(std::unique_lock<std::mutex>& lock, GroupIndex at, PendingStore* store);
  void AnswerSuperseded(std::unique_lock<std::mutex>& lock);
  GroupIndex LineAbove(GroupIndex group) const;
  void LookAgain();
  void WakeThread();
  void TakeOut(SlotIndex slot);
  void TakeOutFrom(PendingStore** link, SlotIndex slot);
  bool TakeOutFreed(SlotIndex slot, std::uint32_t sequence);
  void LeaveSuperseded(PendingStore** link);
  bool MayWait(GroupIndex at, std::size_t object_bytes) const;
  void BeginToWait(GroupIndex at);
  Clock::time_point Deadline(GroupIndex at) const;
  Clock::time_point NextDeadline() const;
  void Append(PendingStore* store, GroupIndex at);
  void Unlink(PendingStore* store);
  PendingStore** BucketOf(SlotIndex slot) { return &buckets_[slot % kBuckets]; }
  PendingStore** LinkTo(SlotIndex slot, const PendingStore* store);
  void Leave(PendingStore** link);

  const TierConfig& config_;
  Pages& pages_;
  const SlotOwners& owners_;
  RoomMaker* room_maker_ = nullptr;
  // Stores in all lines: read on every store and by whoever makes room. Sequentially consistent, as
  // each line's, and as the bytes that the limits count: a store announces itself here before its
  // next attempt, and who makes room does so before looking here; so one of them sees the other.
  alignas(64) std::atomic<std::uint64_t> waiting_{0};
  alignas(64) std::atomic<bool> look_again_{false};

  std::mutex mutex_;  // guards all below, and what PendingStore calls the queue's
  std::condition_variable wake_;
  std::vector<Line> lines_;                         // by group
  std::array<std::uint64_t, kSizes> pool_sizes_{};  // stores in the pool's line
  bool shrinker_wanted_ = false;                    // some line was tried in vain anew
  std::array<PendingStore*, kBuckets> buckets_{};   // stores in any line, by slot, latest first
  PendingStore* superseded_ = nullptr;              // to be told so
  bool stopping_ = false;
  std::thread thread_;  // last
};

}  // namespace farswap::tier
