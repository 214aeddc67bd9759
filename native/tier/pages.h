// The pages of the device: where each one is, and every way in which that changes.
//
// Pages owns the slot table, the pool, the groups and the count of version wraps. Its methods are
// the state machine of a slot's record; no other file changes one.
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
// Publish, Forget and a writeback of which no answer came raise the slot's version.
//
// Threads: any. A slot's lock guards its record and the bytes of its entry; methods that take a
// slot are called with it held, the others take it themselves. Pages calls nobody above: freed room
// goes to a RoomListener.
#pragma once

#include <atomic>
#include <chrono>
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

namespace farswap::tier {

class RoomListener {
 public:
  /// An entry was freed: there may be room for stores of the group, and in the pool. A slot's lock
  /// may be held.
  virtual void RoomMade(GroupIndex group) = 0;

 protected:
  ~RoomListener() = default;
};

class Pages {
 public:
  /// `stale` outlives it.
  Pages(std::unique_ptr<SlotTable> table, std::unique_ptr<Pool> pool, StaleObjects* stale);

  /// Set before any page is stored.
  void TellRoomTo(RoomListener* listener) { room_ = listener; }

  /// In percent of a limit: see TierConfig. Under it a limit counts as kept.
  void SetAcceptThreshold(std::uint32_t percent) {
    accept_threshold_percent_.store(percent, std::memory_order_relaxed);
  }
  std::uint32_t accept_threshold_percent() const {
    return accept_threshold_percent_.load(std::memory_order_relaxed);
  }

  // --- Looking

  std::uint64_t slots() const { return table_->slots(); }
  std::uint64_t table_bytes() const { return table_->bytes(); }
  std::uint64_t payload_bytes() const { return payload_bytes_.load(std::memory_order_relaxed); }
  Pool& pool() { return *pool_; }
  const Pool& pool() const { return *pool_; }
  Groups& groups() { return groups_; }
  const Groups& groups() const { return groups_; }

  [[nodiscard]] std::unique_lock<std::mutex> Lock(SlotIndex slot) { return table_->Lock(slot); }
  void WaitForHolders() { table_->WaitForHolders(); }
  const SlotRecord& Get(SlotIndex slot) const { return table_->Get(slot); }
  bool AnyInBundle(SlotIndex slot) const { return table_->AnyInBundle(slot); }
  std::uint64_t BundleEnd(SlotIndex slot) const { return table_->BundleEnd(slot); }

  /// The object in the slot's entry; its bytes are there as long as the slot's lock is held.
  PageObject ObjectOf(SlotIndex slot) const;
  /// Whether that is what was put there. A damaged one goes nowhere: it would get a fresh checksum
  /// when it is compressed again, or be taken for the server's damage.
  bool Intact(SlotIndex slot) const;

  // --- Stores and trims

  /// An entry, or the group that is full; that is the root group for the pool.
  struct Room {
    EntryRef entry;
    GroupIndex full;
  };
  Room TakeRoom(GroupIndex group, std::size_t object_bytes);
  /// Copies an object into an entry that nobody knows yet; the record of a page that is there.
  SlotRecord Fill(EntryRef entry, const Compressed& object, std::uint32_t checksum,
                  std::uint32_t stored_boot_s);
  /// Lets go of an entry that was not published.
  void Free(EntryRef entry);
  /// The slot's page is the one of `next`, which says state, bytes, group and sequence.
  void Publish(SlotIndex slot, SlotRecord next);
  /// The slot is empty; its page, if it has one, counts as `reason`.
  void Forget(SlotIndex slot, Counter reason, std::uint8_t sequence);
  /// The sequence of the record is another one; nothing else changes.
  void NoteSequence(SlotIndex slot, std::uint8_t sequence);
  /// The page was read from its entry.
  void NoteRead(SlotIndex slot);

  // --- Writeback

  /// Copies a local page, which is intact, to be sent. Returns the bytes of its entry.
  std::size_t BeginWriteback(SlotIndex slot, Counter cause, std::uint32_t boot_s, std::byte* copy,
                             PageObject* page);
  /// Such pages are about to be sent as one bundle, whose version is returned; what was overwritten
  /// meanwhile is not among its members. For one thread. Takes the lock.
  ObjectVersion JoinBundle(std::span<const PageObject> pages);
  /// The servers have answered. The entry is freed if they have the page and it is the slot's
  /// still, which is returned. Takes the lock.
  bool EndWriteback(const PageObject& page, PutResult result, Groups::Time now);
  /// The same of a bundle; returns the number of pages that are theirs now.
  std::size_t EndBundle(const PageObject& bundle, PutResult result, Groups::Time now);
  /// Leaves a page on the LRU, at its hot end, as if it had not been read; `why` counts.
  void Spare(SlotIndex slot, Counter why);
  /// Takes a page of a remote bundle into the pool, as `filled` by Fill(), at the LRU's cold end.
  void AdoptClean(SlotIndex slot, const SlotRecord& filled);
  /// Makes a clean page a remote one. Returns the bytes of its entry, which is free.
  std::size_t DropClean(SlotIndex slot);

  // --- Upkeep. These take the lock.

  /// Copies an entry elsewhere, in its slot's name. False: there is no room.
  bool Move(EntryRef from);
  /// Adds the stale objects of a chunk of slots, which servers may be told to discard from now on.
  /// For the thread of JoinBundle().
  void TakeStale(const StaleObjects::Chunk& chunk, std::vector<DiscardItem>* stale);
  /// The records of the slots from `first` on and before `end` name their pages' groups again,
  /// where they named one that is gone.
  void Reparent(std::uint64_t first, std::uint64_t end);

 private:
  enum class LruEnd : std::uint8_t { kHot, kCold };

  void Replace(SlotIndex slot, SlotRecord next);
  void Change(SlotIndex slot, const SlotRecord& next, LruEnd end = LruEnd::kHot);
  void Account(const SlotRecord& record, int by);
  void Enlist(const SlotRecord& record, int by);
  void Count(Group& group, const SlotRecord& record, int by);
  Charge ChargeOf(const SlotRecord& record) const;
  bool Settle(SlotIndex slot, PutResult result, std::size_t sent_bytes, Codec codec,
              Groups::Time now);
  void Stay(SlotRecord* next, PutResult result);

  Version NextVersion(const SlotRecord& record);
  ObjectVersion ObjectVersionOf(const SlotRecord& record) const {
    return PageVersion(version_wraps_.load(std::memory_order_relaxed), record.version);
  }

  const std::unique_ptr<SlotTable> table_;
  const std::unique_ptr<Pool> pool_;
  StaleObjects* const stale_;
  Groups groups_;
  RoomListener* room_ = nullptr;
  std::atomic<std::uint32_t> accept_threshold_percent_{90};
  std::atomic<std::uint64_t> payload_bytes_{0};
  // How often a slot's version has wrapped. A slot's lock orders what is read of it for the slot
  // behind every time that its own version has.
  std::atomic<std::uint32_t> version_wraps_{0};
  // Of the bundle sent last. Never twice the same: what a server holds of a bundle from an attempt
  // that seemed to fail must not pass for the next one.
  ObjectVersion bundle_version_ = 0;
};

}  // namespace farswap::tier
