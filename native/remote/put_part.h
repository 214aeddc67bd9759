// A PutBatch is cut into one part a server; the batch is done when its last part is.
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

/// The pages of one batch that go to one server. Allocated by Put(), gone when answered.
struct PutPart {
  tier::PutBatch* batch = nullptr;
  // Shared by the batch's parts. Falls with release, so that whoever brings it to zero sees all
  // results; each part writes results of its own pages only.
  std::shared_ptr<std::atomic<std::uint32_t>> parts_left;
  MemberIndex member = kNoMember;
  std::size_t count = 0;
  std::array<std::uint8_t, tier::PutBatch::kPagesMax> indices;  // into the batch
  std::array<tier::PutResult, tier::PutBatch::kPagesMax> results;

  // The put lane's.
  std::uint64_t batch_id = 0;
  TimePoint expires;
  PutPart* older = nullptr;
  PutPart* newer = nullptr;
  bool sent = false;
};
static_assert(tier::PutBatch::kPagesMax <= 256, "indices are bytes");

/// Tells the batch what became of the part's pages, and frees the part. The batch may be gone then.
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
