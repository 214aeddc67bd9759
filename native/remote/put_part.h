// A PutBatch has one part per server; it is done with its last part.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "remote/lane.h"
#include "remote/members.h"
#include "tier/remote_store.h"

namespace farswap::remote {

/// The pages of a batch for one server. Allocated by Put(), freed when answered.
struct PutPart {
  tier::PutBatch* batch = nullptr;
  // Shared by the batch's parts. Decremented with release, so that the thread that reaches zero
  // sees all results; each part writes results of its pages only.
  std::shared_ptr<std::atomic<std::uint32_t>> parts_left;
  MemberIndex member = kNoMember;
  std::size_t count = 0;
  std::array<std::uint8_t, tier::PutBatch::kObjectsMax> indices;  // into the batch
  std::array<tier::PutResult, tier::PutBatch::kObjectsMax> results;

  // The put lane's.
  std::uint64_t batch_id = 0;
  TimePoint expires;
  PutPart* older = nullptr;
  PutPart* newer = nullptr;
  bool sent = false;
};
static_assert(tier::PutBatch::kObjectsMax <= 256, "indices are bytes");

/// Stores the results in the batch, and frees the part. The batch may be destroyed then.
inline void FinishPart(PutPart* finished) {
  const std::unique_ptr<PutPart> part(finished);
  for (std::size_t i = 0; i < part->count; ++i) {
    part->batch->results[part->indices[i]] = part->results[i];
  }
  if (part->parts_left->fetch_sub(1, std::memory_order_acq_rel) == 1) part->batch->OnPutDone();
}

/// The same, with one result for all its pages.
inline void FinishPart(PutPart* part, tier::PutResult result) {
  part->results.fill(result);
  FinishPart(part);
}

}  // namespace farswap::remote
