// The pages of the device: where each one is, and every change of that.
//
// Pages owns the slot table, the pool, the groups and the count of version wraps. Its methods are
// the state machine of a slot's record; no other file changes one:
//
//                         Publish, from every state
//                    ┌───────────────┴───────────────┐
//                    ▼                               ▼
//               same_filled                        local ◀──┐ Spare, Move
//                                                  │   ▲  └──┘
//                                   BeginWriteback │   │ EndWriteback: not acknowledged
//                                                  ▼   │
//                                                 writing ──┐
//                                                  │     ▲  │ JoinBundle, Move
//                        EndWriteback: acknowledged│     └──┘
//               AdoptClean                         ▼
//        clean ◀──────────────────────────────── remote
//          └───────────────────────────────────────▲
//               DropClean
//
//        empty ◀── Forget, from every state
//
// Publish, Forget and an unanswered writeback raise the slot's version.
//
// Threads: any. A slot's lock guards its record and the bytes of its entry. Methods that take a
// slot are called with its lock held, the others take it. Freed room is reported to a RoomListener.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "tier/codec.h"
#include "tier/groups.h"
#include "tier/page.h"
#include "tier/pool.h"
#include "tier/remote_store.h"
#include "tier/slot_table.h"
#include "tier/stale.h"
#include "tier/state.h"

namespace farswap::tier {

class RoomListener {
 public:
  /// An entry was freed: there may be room for stores of the group, and in the pool. Called with or
  /// without a slot's lock.
  virtual void RoomMade(GroupIndex group) = 0;

 protected:
  ~RoomListener() = default;
};

class Pages final : public StoredObjects {
 public:
  /// `stale` outlives it.
  Pages(std::shared_ptr<State> state, StaleObjects* stale);

  /// Rebuilds what follows from the records of an adopted state, before any other call. A page that
  /// was being written is local again, as after a write without an answer. Fails if records and
  /// pool do not fit together.
  Outcome Recover(std::uint32_t boot_s);

  /// For tests, while nothing else runs: what does not follow from the records. Each entry in use
  /// is named by one record; charges, counts and LRUs are what the records add up to.
  Outcome Check();

  /// Set before any page is stored.
  void ReportRoomTo(RoomListener* listener) { room_ = listener; }

  /// In percent of a limit: see TierConfig. Under it a limit counts as kept.
  void SetAcceptThreshold(std::uint32_t percent) {
    accept_threshold_percent_.store(percent, std::memory_order_relaxed);
  }
  std::uint32_t accept_threshold_percent() const {
    return accept_threshold_percent_.load(std::memory_order_relaxed);
  }

  // --- Looking

  State& state() const { return *state_; }
  std::uint64_t slots() const { return table_.slots(); }
  std::uint64_t table_bytes() const { return table_.bytes(); }
  std::uint64_t payload_bytes() const { return payload_bytes_.load(std::memory_order_relaxed); }
  Pool& pool() { return pool_; }
  const Pool& pool() const { return pool_; }
  Groups& groups() { return groups_; }
  const Groups& groups() const { return groups_; }

  [[nodiscard]] std::unique_lock<std::mutex> Lock(SlotIndex slot) { return table_.Lock(slot); }
  template <typename F>
  void ForEach(std::uint64_t first, std::uint64_t end, F f) {
    table_.ForEach(first, end, f);
  }
  void WaitForHolders() { table_.WaitForHolders(); }
  const SlotRecord& Get(SlotIndex slot) const { return table_.Get(slot); }
  bool AnyInBundle(SlotIndex slot) const { return table_.AnyInBundle(slot); }
  std::uint64_t BundleEnd(SlotIndex slot) const { return table_.BundleEnd(slot); }

  /// The object in the slot's entry. Its bytes are valid while the slot's lock is held.
  Object ObjectOf(SlotIndex slot) const {
    const SlotRecord& record = table_.Get(slot);
    const EntryRef entry = record.object.entry;
    return {slot,
            ObjectVersionOf(record),
            static_cast<Codec>(record.codec),
            record.object.checksum,
            0,
            {pool_.Bytes(entry), pool_.At(entry)->object_bytes()}};
  }
  /// Whether its checksum matches. A damaged object must not be sent: recompression would give it a
  /// fresh checksum.
  bool Intact(SlotIndex slot) const;

  // --- Stores and trims

  /// An entry, or the group that is full; that is the root group for the pool.
  struct Room {
    EntryRef entry;
    GroupIndex full;
  };
  Room TakeRoom(GroupIndex group, std::size_t object_bytes);
  /// Copies an object into an unpublished entry. Returns the record of its page.
  SlotRecord Fill(EntryRef entry, const Compressed& object, std::uint32_t checksum,
                  std::uint32_t stored_boot_s);
  /// Frees an unpublished entry.
  void Free(EntryRef entry);
  /// The slot's page is the one of `next`, which has state, bytes, group and sequence set.
  void Publish(SlotIndex slot, SlotRecord next);
  /// Empties the slot. Its page, if it has one, counts as `reason`.
  void Forget(SlotIndex slot, Counter reason, std::uint8_t sequence);
  /// Changes the record's sequence alone.
  void NoteSequence(SlotIndex slot, std::uint8_t sequence);
  /// The page was read from its entry, the first time since it was stored or spared.
  void NoteRead(SlotIndex slot);

  // --- Writeback

  /// Copies an intact local page, to be sent. Returns the bytes of its entry.
  std::size_t BeginWriteback(SlotIndex slot, Counter cause, std::uint32_t boot_s, std::byte* copy,
                             Object* page);
  /// Such pages are about to be sent as one bundle: returns its version. Pages overwritten
  /// meanwhile are not its members. For one thread. Takes the lock.
  ObjectVersion JoinBundle(std::span<const Object> pages);
  /// The servers have answered. True: they have the page, it is still the slot's, and its entry was
  /// freed. Takes the lock.
  bool EndWriteback(const Object& page, PutResult result, Groups::Time now);
  /// The same for a bundle. Returns the number of such pages.
  std::size_t EndBundle(const Object& bundle, PutResult result, Groups::Time now);
  /// Moves a page to the hot end of its LRU, as not read. Counts `why`.
  void Spare(SlotIndex slot, Counter why);
  /// Takes a page of a remote bundle into the pool, as `filled` by Fill(), at its LRU's cold end.
  void AdoptClean(SlotIndex slot, const SlotRecord& filled);
  /// Makes a clean page a remote one. Returns the bytes of its entry, which is free.
  std::size_t DropClean(SlotIndex slot);

  // --- Upkeep. These take the lock.

  /// Copies an entry to another slab. False: there is no room.
  bool Move(EntryRef from);
  /// Appends the stale objects of a chunk of slots; servers may discard them from now on. For the
  /// thread of JoinBundle().
  void TakeStale(const StaleObjects::Chunk& chunk, std::vector<DiscardItem>* stale);
  void ListWanted(SlotIndex first_of_shard, std::vector<Wanted>* wanted) override;
  void OnListed(ObjectKey key) override;
  /// Rewrites the records of the slots [first, end) that name a removed group.
  void Reparent(std::uint64_t first, std::uint64_t end);

 private:
  enum class LruPlace : std::uint8_t { kHot, kCold, kSame };

  void Replace(SlotIndex slot, SlotRecord next);
  void Change(SlotIndex slot, const SlotRecord& next, LruPlace place = LruPlace::kHot);
  void Account(GroupIndex index, const SlotRecord& old, const SlotRecord& next, LruPlace place);
  void Count(Group& group, const SlotRecord& record, int by);
  Charge ChargeOf(const SlotRecord& record) const;
  bool Settle(SlotIndex slot, PutResult result, std::size_t sent_bytes, Codec codec,
              Groups::Time now);
  void Stay(SlotRecord* next, PutResult result);

  struct Recovered;
  void RecoverRecord(SlotIndex slot);
  bool RecoverSlots(SlotIndex first, Recovered* all);
  Version NextVersion(const SlotRecord& record);
  ObjectVersion ObjectVersionOf(const SlotRecord& record) const {
    return PageVersion(version_wraps_.load(std::memory_order_relaxed), record.version);
  }

  const std::shared_ptr<State> state_;
  std::atomic<std::uint32_t>& version_wraps_;  // of the state, as the next
  std::atomic<ObjectVersion>& bundle_version_;
  SlotTable table_;
  Pool pool_;
  StaleObjects* const stale_;
  Groups groups_;
  RoomListener* room_ = nullptr;
  std::atomic<std::uint32_t> accept_threshold_percent_{90};
  std::atomic<std::uint64_t> payload_bytes_{0};
};

}  // namespace farswap::tier
