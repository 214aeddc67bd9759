#include "nbd/parked_requests.h"

#include <cstring>
#include <utility>

#include "base/check.h"

namespace farswap::nbd {

using tier::IoStatus;
using tier::kPageBytes;
using tier::PageDevice;
using tier::SlotIndex;

Result<std::unique_ptr<ParkedRequests>> ParkedRequests::Create(PageDevice* tier,
                                                               Answerer* answerer) {
  std::unique_ptr<ParkedRequests> parked(new ParkedRequests(tier, answerer));
  auto pages = Memory::Create(kPages * kPageBytes, "nbd parked reads");
  if (!pages.ok()) return pages.error();
  parked->pages_ = std::move(pages.value());
  auto stores = Memory::Create(ConnectionState::kParkedStores * kPageBytes, "nbd parked writes");
  if (!stores.ok()) return stores.error();
  parked->store_memory_ = std::move(stores.value());
  for (std::size_t i = 0; i < kPages; ++i) {
    parked->next_page_[i] = static_cast<std::uint16_t>(i + 1);
  }
  parked->fetches_ = std::make_unique<std::array<Fetch, kFetches>>();
  for (Fetch& fetch : *parked->fetches_) {
    fetch.parked = parked.get();
    fetch.next = std::exchange(parked->free_fetches_, &fetch);
  }
  parked->free_fetch_count_ = kFetches;
  for (std::size_t i = 0; i < ConnectionState::kParkedStores; ++i) {
    Store& store = parked->stores_.emplace_back(parked->store_memory_->data() + i * kPageBytes);
    store.parked = parked.get();
    store.index = i;
  }
  return parked;
}

// --- Reads --------------------------------------------------------------------------------------

bool ParkedRequests::HasRoomFor(std::size_t page_count) {
  const std::lock_guard lock(mutex_);
  return free_page_count_ >= page_count && free_fetch_count_ >= FetchesOf(page_count);
}

ParkedRequests::Fetch* ParkedRequests::TakeFetch(std::size_t read) {
  std::unique_lock lock(mutex_);
  // A read that is started again may need more fetches than it did.
  changed_.wait(lock, [this] { return free_fetches_ != nullptr; });
  Fetch* const fetch = std::exchange(free_fetches_, free_fetches_->next);
  --free_fetch_count_;
  fetch->read = read;
  fetch->next = nullptr;
  fetch->page_count = 0;
  return fetch;
}

void ParkedRequests::StartRead(std::size_t index, const ParkedRead& parked,
                               std::span<const std::byte> loaded) {
  Read& read = reads_[index];
  FARSWAP_CHECK(free_page_count_ >= parked.page_count);
  read = {.first_page = free_page_};
  Fetch* fetches = nullptr;
  std::size_t page = free_page_;
  for (SlotIndex i = 0; i < parked.page_count; ++i, page = free_page_) {
    free_page_ = next_page_[page];
    if (i + 1 == parked.page_count) next_page_[page] = kNoPage;
    if (i < loaded.size() / kPageBytes) {
      std::memcpy(Page(page), loaded.data() + i * kPageBytes, kPageBytes);
      continue;
    }
    const SlotIndex slot = parked.first + i;
    const auto result = tier_->Load(slot, Page(page));
    if (result == PageDevice::LoadResult::kIoError) read.status = IoStatus::kIoError;
    if (result != PageDevice::LoadResult::kRemote) continue;
    if (fetches == nullptr || fetches->page_count == tier::PageFetch::kPagesMax ||
        fetches->page_slots[0] / tier::kShardSlots != slot / tier::kShardSlots) {
      Fetch* const fetch = TakeFetch(index);
      fetch->next = std::exchange(fetches, fetch);
      ++read.fetches_left;
    }
    fetches->page_slots[fetches->page_count] = slot;
    fetches->page_outputs[fetches->page_count++] = Page(page);
  }
  free_page_count_ -= parked.page_count;
  if (fetches == nullptr) {
    const std::lock_guard lock(mutex_);
    done_.reads.Set(index);
  }
  while (fetches != nullptr) {
    Fetch* const fetch = std::exchange(fetches, fetches->next);
    tier_->Fetch(fetch);
  }
}

void ParkedRequests::TakeRead(std::size_t index, std::byte* to) {
  Read& read = reads_[index];
  for (std::size_t page = std::exchange(read.first_page, kNoPage); page != kNoPage;) {
    if (read.status == IoStatus::kOk) {
      std::memcpy(to, Page(page), kPageBytes);
      to += kPageBytes;
    }
    const std::size_t next = std::exchange(next_page_[page], free_page_);
    free_page_ = static_cast<std::uint16_t>(page);
    ++free_page_count_;
    page = next;
  }
}

void ParkedRequests::OnFetchDone(Fetch* fetch, IoStatus status) {
  std::unique_lock lock(mutex_);
  const std::size_t index = fetch->read;
  Read& read = reads_[index];
  if (status != IoStatus::kOk) read.status = status;
  fetch->next = std::exchange(free_fetches_, fetch);
  ++free_fetch_count_;
  if (--read.fetches_left > 0) {
    changed_.notify_all();
    return;
  }
  done_.reads.Set(index);
  Answer(lock);
}

// --- Stores -------------------------------------------------------------------------------------

void ParkedRequests::NoteStore(std::size_t index, IoStatus status) {
  stores_[index].status = status;
  const std::lock_guard lock(mutex_);
  done_.stores.Set(index);
}

// The holder may not have recorded yet that the store waits.
void ParkedRequests::OnStoreDone(std::size_t index, IoStatus status) {
  std::unique_lock lock(mutex_);
  stores_[index].status = status;
  done_.stores.Set(index);
  Answer(lock);
}

// --- Completion ---------------------------------------------------------------------------------

/// Its last access is the caller's unlock.
void ParkedRequests::Answer(std::unique_lock<std::mutex>& lock) {
  ++completions_;
  while (done_.Any() && answerer_->TryHold()) {
    lock.unlock();
    const bool answered = answerer_->AnswerAndRelease();
    lock.lock();
    if (!answered) break;
  }
  --completions_;
  changed_.notify_all();
}

void ParkedRequests::TakeDone(DoneParts* to) {
  const std::lock_guard lock(mutex_);
  to->reads.Add(done_.reads);
  to->stores.Add(done_.stores);
  done_ = {};
}

bool ParkedRequests::AnyDone() {
  const std::lock_guard lock(mutex_);
  return done_.Any();
}

void ParkedRequests::AwaitDone() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return done_.Any(); });
}

void ParkedRequests::AwaitQuiet() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return completions_ == 0; });
}

}  // namespace farswap::nbd
