// Stores that wait for room: at the limit of a group, or for memory of the pool.
//
//   line of group A      store ─ store ─ store     first come, first served
//   line of the pool     store ─ store             the same for each size (the root group's line)
//
// A store that finds no room enters the line of the group whose limit it hit. A thread serves all
// lines whenever room may have been made: by writeback, compaction, an overwrite, a trim, a new
// limit. In a line it stops at the first store that does not fit, in the pool's line at the first
// of each size; so a round costs one failed attempt each, and stores at one limit delay no others.
// A new store of that group, or of that size, enters the line behind them.
//
// A store leaves its line
//   - stored, when it fits;
//   - superseded, when a later store to its slot was stored or refused, or the slot was trimmed or
//     freed: it counts as stored before that. A later store that still waits may be cancelled, and
//     supersedes nothing;
//   - refused, when writeback has freed nothing there for TierConfig::store_wait and no store there
//     has found other room; at once when nothing there may leave the pool, and after Stop();
//   - cancelled.
// The thread calls OnStored() for all but the last, without a lock. The first three are decided
// under the lock of the store's slot, so that no page follows a newer one into a slot.
//
// The slot's word (slot_words.h) shows that the kernel freed the slot. The store's own write is in
// the word before the store is here. So a word that is
//   - FREE, and has changed since: frees the store's page or a later one, and no write follows;
//   - FREE, and has not: may be a late notice for the page before, if the kernel's hook missed the
//     write. The store stays: a page too many does no harm;
//   - not FREE: the slot is in use.
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
#include "tier/config.h"
#include "tier/owner.h"
#include "tier/page_device.h"
#include "tier/pages.h"

namespace farswap::tier {

/// Makes room for waiting stores: the shrinker.
class RoomMaker {
 public:
  /// A store was tried and found no room.
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

  /// Refuses waiting and later stores that find no room, and ends the thread. Idempotent.
  void Stop();

  bool AnyWaiting() const { return waiting_.load() > 0; }

  /// Takes room for a store, unless others wait for the same room.
  Pages::Room TakeRoom(GroupIndex group, std::size_t object_bytes);
  /// Puts a store that found no room into the line of `full`. kPending: it is in line; otherwise
  /// its outcome.
  IoStatus Wait(PendingStore* store, SlotIndex slot, const Compressed& object, GroupIndex full);
  /// The slot was stored to or trimmed. Its lock is held.
  void Supersede(SlotIndex slot) {
    if (AnyWaiting()) TakeOutAll(slot, std::nullopt);
  }
  /// The slot's word is FREE and has this sequence. True: a waiting store was freed with it. The
  /// slot's lock is held.
  bool SupersedeFreed(SlotIndex slot, std::uint32_t sequence) {
    return AnyWaiting() && TakeOutAll(slot, sequence);
  }
  bool Cancel(PendingStore* store);

  /// Room was made for stores of a group and in the pool, or for any store. Called with any lock
  /// held that comes before mutex_.
  void RoomMade(GroupIndex group) override {
    if (AnyWaiting() && LineAbove(group) != kNoLine) LookAgain();
  }
  void RoomMade() {
    if (AnyWaiting()) LookAgain();
  }

  /// Whether stores wait there, and writeback has freed nothing since one of them was tried: then
  /// the shrinker makes room whatever the marks are.
  bool WantsRoom(GroupIndex group);

 private:
  using Clock = std::chrono::steady_clock;

  struct Line {
    std::atomic<std::uint64_t> stores{0};
    PendingStore* first = nullptr;
    PendingStore* last = nullptr;
    std::uint64_t tried_at_progress = kNever;  // the group's progress at the last attempt
    // A shortage: stores find no room, writeback frees nothing and no waiting store fits.
    Clock::time_point full_since{};
    Clock::time_point last_full{};
    std::uint64_t progress_when_full = 0;
  };

  static constexpr std::uint64_t kNever = ~std::uint64_t{0};

  static std::size_t SizeOf(std::size_t object_bytes) {
    return Pool::EntryBytes(object_bytes) / Pool::kAlignBytes;
  }
  static constexpr std::size_t kSizes = (sizeof(Entry) + kPageBytes) / Pool::kAlignBytes + 1;
  using Sizes = std::bitset<kSizes>;
  static constexpr std::size_t kBuckets = 1024;

  GroupIndex LineOf(GroupIndex group, std::size_t object_bytes);
  bool Enter(PendingStore* store, GroupIndex full);
  void Keep(const PendingStore& store, EntryRef entry);
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
  bool TakeOutAll(SlotIndex slot, std::optional<std::uint32_t> freed_at);
  bool TakeOut(PendingStore** link, SlotIndex slot, std::optional<std::uint32_t> freed_at);
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
  // Stores in all lines, read by every store and wherever room is made. Sequentially consistent, as
  // each line's count and the bytes that limits count: a store counts itself before its next
  // attempt, and room is made before this is read; so one of them sees the other.
  alignas(64) std::atomic<std::uint64_t> waiting_{0};
  alignas(64) std::atomic<bool> look_again_{false};

  std::mutex mutex_;  // guards all below, and what PendingStore calls the queue's
  std::condition_variable wake_;
  std::vector<Line> lines_;                         // by group
  std::array<std::uint64_t, kSizes> pool_sizes_{};  // stores in the pool's line
  bool shrinker_wanted_ = false;                    // an attempt found no room
  std::array<PendingStore*, kBuckets> buckets_{};   // stores in any line, by slot, latest first
  PendingStore* superseded_ = nullptr;              // OnStored() is due
  bool stopping_ = false;
  std::thread thread_;  // last
};

}  // namespace farswap::tier
