// A PutBatch goes out in parts, one per server; an object with several replicas is in as many
// parts. Its result is the worst of its replicas'. The batch is done with its last part.
#pragma once

#include <algorithm>
#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "remote/lane.h"
#include "remote/members.h"
#include "tier/remote_store.h"

namespace farswap::remote {

struct PutPart;

/// Called by the parts of batches, from any thread.
class PutObserver {
 public:
  /// Whether the member is a current replica of the object's shard. Any locks.
  virtual bool IsCurrent(tier::ObjectKey key, MemberIndex member) const = 0;

  // Without locks:

  /// The part has its results; the batch may not be done yet.
  virtual void OnPartDone(const PutPart& part) = 0;
  /// The batch is done, and each server has answered its part or will not be asked again.
  virtual void OnPutEnded(std::uint64_t era) = 0;

 protected:
  ~PutObserver() = default;
};

/// What the parts of a batch share. The Put ends with it.
struct SplitBatch {
  SplitBatch(tier::PutBatch* split, PutObserver* parts_observer, std::uint64_t put_era)
      : batch(split), observer(parts_observer), era(put_era) {}
  ~SplitBatch() { observer->OnPutEnded(era); }
  SplitBatch(const SplitBatch&) = delete;
  SplitBatch& operator=(const SplitBatch&) = delete;

  tier::PutBatch* const batch;  // until it is done
  PutObserver* const observer;
  const std::uint64_t era;  // see PutEras
  std::mutex mutex;         // guards all below, and the batch's results
  std::size_t parts_left = 0;
  std::bitset<tier::PutBatch::kObjectsMax> kept;     // by at least one replica
  std::bitset<tier::PutBatch::kObjectsMax> settled;  // by a current replica
};

/// Objects of a batch for one server. Allocated by Put(), freed when answered.
///
/// A part that is sent may be *left*: the batch is done without it, and it waits for its answer
/// alone, since what its server still does must not meet a copy or a drop of the shard.
struct PutPart {
  std::shared_ptr<SplitBatch> split;
  MemberIndex member = kNoMember;
  std::size_t count = 0;
  std::array<std::uint8_t, tier::PutBatch::kObjectsMax> indices;  // into the batch
  std::array<tier::PutResult, tier::PutBatch::kObjectsMax> results;

  const tier::Object& ObjectAt(std::size_t i) const { return split->batch->objects[indices[i]]; }

  // The put lane's.
  std::uint64_t batch_id = 0;
  TimePoint expires;
  PutPart* older = nullptr;
  PutPart* newer = nullptr;
  bool sent = false;
  bool left = false;
};
static_assert(tier::PutBatch::kObjectsMax <= 256, "indices are bytes");

/// Of two replicas' results: one that is superseded decides, then one that may or may not have the
/// object.
inline tier::PutResult Worse(tier::PutResult one, tier::PutResult other) {
  using enum tier::PutResult;
  for (const tier::PutResult result : {kSuperseded, kUnavailable, kRejected, kServerFull}) {
    if (one == result || other == result) return result;
  }
  return kAcked;
}

/// Whether no object of the part, which is not finished, depends on its replica: a current one has
/// each of them. Takes the batch's lock.
inline bool IsDispensable(const PutPart& part) {
  const std::lock_guard lock(part.split->mutex);
  const auto indices = std::span(part.indices).first(part.count);
  return std::ranges::all_of(indices, [&](std::uint8_t i) { return part.split->settled[i]; });
}

/// Whether the batch may do without the part: it is dispensable, and its replica is current for no
/// object.
inline bool MayBeLeft(const PutPart& part) {
  for (std::size_t i = 0; i < part.count; ++i) {
    if (part.split->observer->IsCurrent(part.ObjectAt(i).key, part.member)) return false;
  }
  return IsDispensable(part);
}

/// Merges the results into those of the batch; returns the batch if it is done.
inline tier::PutBatch* MergePart(const PutPart& part) {
  using enum tier::PutResult;
  SplitBatch& split = *part.split;
  split.observer->OnPartDone(part);
  {
    const std::lock_guard lock(split.mutex);
    for (std::size_t i = 0; i < part.count; ++i) {
      tier::PutResult& result = split.batch->results[part.indices[i]];
      result = Worse(result, part.results[i]);
      if (part.results[i] == kAcked) split.kept.set(part.indices[i]);
      const bool has_it = part.results[i] == kAcked || part.results[i] == kSuperseded;
      if (has_it && split.observer->IsCurrent(part.ObjectAt(i).key, part.member)) {
        split.settled.set(part.indices[i]);
      }
    }
    if (--split.parts_left > 0) return nullptr;
  }
  // What one replica refused and another keeps must be put again, or discarded.
  for (std::size_t i = 0; i < split.batch->count; ++i) {
    tier::PutResult& result = split.batch->results[i];
    if (split.kept[i] && (result == kRejected || result == kServerFull)) result = kUnavailable;
  }
  return split.batch;
}

/// Leaves a part that is marked so.
inline void LeavePart(PutPart* part) {
  part->results.fill(tier::PutResult::kUnavailable);
  if (tier::PutBatch* const batch = MergePart(*part)) batch->OnPutDone();
}

/// Merges the results into those of the batch, and frees the part. The batch may be destroyed then.
inline void FinishPart(PutPart* finished) {
  std::unique_ptr<PutPart> part(finished);
  tier::PutBatch* const batch = part->left ? nullptr : MergePart(*part);
  part.reset();
  if (batch) batch->OnPutDone();
}

/// The same, with one result for all its objects.
inline void FinishPart(PutPart* part, tier::PutResult result) {
  part->results.fill(result);
  FinishPart(part);
}

}  // namespace farswap::remote
