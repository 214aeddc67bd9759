// The writes among parked requests: pages that the tier keeps until there is room for them.
//
// Each page of a WRITE is stored, superseded by a newer one, or refused, in any order. The tier
// empties the slot of a refused page; the connection empties those of the pages that arrive after a
// refusal. So when the reply is an error, each slot of the WRITE holds its new page, nothing, or
// what came later; never what it held before.
#include <utility>

#include "nbd/reply_stream.h"

namespace farswap::nbd {

using tier::IoStatus;

void ReplyStream::TakeForWrite(ParkedRequest** write, ParkedStore** store) {
  const std::lock_guard lock(mutex_);
  if (*write == nullptr && free_writes_ != nullptr) *write = TakeRequest(&free_writes_);
  if (*store == nullptr && free_stores_ != nullptr) {
    *store = std::exchange(free_stores_, free_stores_->next_);
  }
}

void ReplyStream::AwaitForWrite(ParkedRequest** write, ParkedStore** store) {
  for (;;) {  // ends: stores wait for a bounded time
    TakeForWrite(write, store);
    if (*write != nullptr && *store != nullptr) return;
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
      return stuck_ || ((*write != nullptr || free_writes_ != nullptr) &&
                        (*store != nullptr || free_stores_ != nullptr));
    });
    if (!stuck_) continue;
    lock.unlock();
    Send({});
  }
}

void ReplyStream::Parked(ParkedRequest* write) {
  const std::lock_guard lock(mutex_);
  ++write->parts_left_;
  if (!std::exchange(write->parked_, true)) parked_.fetch_add(1, std::memory_order_relaxed);
}

IoStatus ReplyStream::StatusOf(const ParkedRequest* write) {
  const std::lock_guard lock(mutex_);
  return write->status_;
}

void ReplyStream::SubmitWrite(ParkedRequest* write, std::uint64_t cookie, IoStatus status) {
  std::unique_lock lock(mutex_);
  write->cookie = cookie;
  if (write->status_ == IoStatus::kOk) write->status_ = status;
  write->submitted_ = true;
  FinishPart(lock, write);
}

void ParkedStore::OnStored(IoStatus status) { stream_->OnStoreDone(this, status); }

// The connection's thread may not have called Parked() yet.
void ReplyStream::OnStoreDone(ParkedStore* store, IoStatus status) {
  std::unique_lock lock(mutex_);
  ParkedRequest* const write = store->write_;
  FreeStore(store);
  if (write->status_ == IoStatus::kOk) write->status_ = status;
  --write->parts_left_;
  FinishPart(lock, write);
}

void ReplyStream::FreeStore(ParkedStore* store) {
  store->next_ = std::exchange(free_stores_, store);
  changed_.notify_all();
}

// A store that completes meanwhile finishes its part; its request is not answered.
void ReplyStream::CancelWrites(tier::PageDevice* tier, ParkedRequest* incomplete) {
  if (!AnyParked()) return;
  if (incomplete != nullptr) {
    std::unique_lock lock(mutex_);
    incomplete->submitted_ = true;
    incomplete->dropped_ = true;
    FinishPart(lock, incomplete);
  }
  for (ParkedStore& store : stores_) {
    if (!tier->CancelStore(&store)) continue;
    std::unique_lock lock(mutex_);
    FreeStore(&store);
    store.write_->dropped_ = true;
    --store.write_->parts_left_;
    FinishPart(lock, store.write_);
  }
}

}  // namespace farswap::nbd
