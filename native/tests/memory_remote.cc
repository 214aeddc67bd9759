#include "memory_remote.h"

#include <algorithm>
#include <utility>

namespace farswap::tier {

MemoryRemote::MemoryRemote() : thread_([this] { Run(); }) {}

MemoryRemote::~MemoryRemote() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

std::deque<MemoryRemote::Request>::iterator MemoryRemote::NextToAnswer() {
  if (held_ == Held::kAll && !stopping_) return queue_.end();
  return std::find_if(queue_.begin(), queue_.end(), [this](const Request& request) {
    return stopping_ || held_ == Held::kNothing || (held_ == Held::kGets) == request.put;
  });
}

void MemoryRemote::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    auto next = queue_.end();
    changed_.wait(lock, [&] { return (next = NextToAnswer()) != queue_.end() || stopping_; });
    if (next == queue_.end()) return;
    const auto answer = std::move(next->answer);
    queue_.erase(next);
    answering_ = true;
    lock.unlock();
    answer();
    lock.lock();
    answering_ = false;
  }
}

void MemoryRemote::Submit(Request request) {
  std::lock_guard lock(mutex_);
  queue_.push_back(std::move(request));
  changed_.notify_all();
}

void MemoryRemote::Put(PutBatch* batch) {
  Submit({true, [this, batch] { AnswerPut(batch); }});
}

void MemoryRemote::Get(RemoteFetch* fetch) {
  Submit({false, [this, fetch] { AnswerGet(fetch); }});
}

void MemoryRemote::AnswerPut(PutBatch* batch) {
  {
    std::lock_guard lock(mutex_);
    largest_batch_ = std::max(largest_batch_, batch->count);
    PutResult failure = put_failure_;
    if (puts_before_failure_ > 0) {
      --puts_before_failure_;
      failure = PutResult::kAcked;
    }
    for (std::size_t i = 0; i < batch->count; ++i) {
      const Object& page = batch->objects[i];
      batch->results[i] = failure;
      if (failure != PutResult::kAcked && !keeps_failed_puts_) continue;
      put_order_.push_back(page.key);
      const auto found = kept_.find(page.key);
      if (found != kept_.end() && found->second.version > page.version) {
        batch->results[i] = PutResult::kSuperseded;
        continue;
      }
      kept_[page.key] = {page.key,      page.version,       page.codec,
                         page.checksum, page.stored_boot_s, {page.bytes.begin(), page.bytes.end()}};
      if (is_replicated_) replica_[page.key] = kept_[page.key];
    }
  }
  batch->OnPutDone();
}

void MemoryRemote::AnswerGet(RemoteFetch* fetch) {
  for (std::size_t i = 0; i < fetch->count; ++i) AnswerGet(fetch, i);
  fetch->OnGetDone();
}

void MemoryRemote::AnswerGet(RemoteFetch* fetch, std::size_t index) {
  GetResult why = NextGetResult();
  if (why == GetResult::kFound) {
    why = GetResult::kNotFound;
    for (const auto* const server : {&kept_, &replica_}) {
      const std::optional<Kept> kept = Find(*server, fetch->keys[index]);
      if (!kept) continue;
      const Object object{kept->key,      kept->version,       kept->codec,
                          kept->checksum, kept->stored_boot_s, kept->bytes};
      if (fetch->OnObject(index, object) == Verdict::kAccept) return;
      why = GetResult::kCorrupt;
    }
  }
  fetch->OnMissing(index, why);
}

GetResult MemoryRemote::NextGetResult() {
  std::lock_guard lock(mutex_);
  ++objects_asked_for_;
  if (gets_before_failure_ == 0) return get_failure_;
  --gets_before_failure_;
  return GetResult::kFound;
}

std::optional<MemoryRemote::Kept> MemoryRemote::Find(const std::map<ObjectKey, Kept>& server,
                                                     ObjectKey key) const {
  std::lock_guard lock(mutex_);
  const auto found = server.find(key);
  return found == server.end() ? std::nullopt : std::optional(found->second);
}

bool MemoryRemote::TakesDiscards(SlotIndex slot) const {
  std::lock_guard lock(mutex_);
  return slot >= refusing_discards_below_;
}

void MemoryRemote::Discard(std::span<const DiscardItem> items) {
  std::lock_guard lock(mutex_);
  if (holding_discards_) {
    held_discards_.insert(held_discards_.end(), items.begin(), items.end());
  } else {
    DoDiscards(items);
  }
}

void MemoryRemote::DoDiscards(std::span<const DiscardItem> items) {
  for (const DiscardItem& item : items) {
    for (auto* const server : {&kept_, &replica_}) {
      const auto found = server->find(item.key);
      if (found != server->end() && found->second.version <= item.version) server->erase(found);
    }
  }
}

bool MemoryRemote::Writable() const {
  std::lock_guard lock(mutex_);
  return writable_;
}

void MemoryRemote::Hold() { SetHeld(Held::kAll); }

void MemoryRemote::HoldPuts() { SetHeld(Held::kPuts); }

void MemoryRemote::HoldGets() { SetHeld(Held::kGets); }

void MemoryRemote::Release() { SetHeld(Held::kNothing); }

void MemoryRemote::SetHeld(Held held) {
  std::lock_guard lock(mutex_);
  held_ = held;
  changed_.notify_all();
}

void MemoryRemote::WaitForHeld(std::size_t requests) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return queue_.size() >= requests; });
}

std::size_t MemoryRemote::Unanswered() const {
  std::lock_guard lock(mutex_);
  return queue_.size() + (answering_ ? 1 : 0);
}

void MemoryRemote::FailPuts(PutResult result, std::size_t after) {
  std::lock_guard lock(mutex_);
  puts_before_failure_ = after;
  put_failure_ = result;
  keeps_failed_puts_ = false;
}

void MemoryRemote::LosePutAnswers() {
  std::lock_guard lock(mutex_);
  put_failure_ = PutResult::kUnavailable;
  keeps_failed_puts_ = true;
}

void MemoryRemote::FailGets(GetResult result, std::size_t after) {
  std::lock_guard lock(mutex_);
  gets_before_failure_ = after;
  get_failure_ = result;
}

void MemoryRemote::SetWritable(bool writable) {
  std::lock_guard lock(mutex_);
  writable_ = writable;
}

void MemoryRemote::SetReplicated(bool replicated) {
  std::lock_guard lock(mutex_);
  is_replicated_ = replicated;
}

void MemoryRemote::RefuseDiscards(bool refuse, SlotIndex end) {
  std::lock_guard lock(mutex_);
  refusing_discards_below_ = refuse ? end : 0;
}

void MemoryRemote::HoldDiscards() {
  std::lock_guard lock(mutex_);
  holding_discards_ = true;
}

void MemoryRemote::ReleaseDiscards() {
  std::lock_guard lock(mutex_);
  holding_discards_ = false;
  DoDiscards(std::exchange(held_discards_, {}));
}

std::size_t MemoryRemote::held_discards() const {
  std::lock_guard lock(mutex_);
  return held_discards_.size();
}

std::size_t MemoryRemote::objects_asked_for() const {
  std::lock_guard lock(mutex_);
  return objects_asked_for_;
}

bool MemoryRemote::Has(ObjectKey key) const {
  std::lock_guard lock(mutex_);
  return kept_.contains(key);
}

ObjectVersion MemoryRemote::VersionOf(ObjectKey key) const {
  std::lock_guard lock(mutex_);
  const auto found = kept_.find(key);
  return found == kept_.end() ? 0 : found->second.version;
}

std::size_t MemoryRemote::pages() const {
  std::lock_guard lock(mutex_);
  return kept_.size();
}

std::size_t MemoryRemote::largest_batch() const {
  std::lock_guard lock(mutex_);
  return largest_batch_;
}

std::vector<ObjectKey> MemoryRemote::put_order() const {
  std::lock_guard lock(mutex_);
  return put_order_;
}

void MemoryRemote::Damage(ObjectKey key) {
  std::lock_guard lock(mutex_);
  kept_.at(key).bytes[0] ^= std::byte{1};
}

void MemoryRemote::Truncate(ObjectKey key) {
  std::lock_guard lock(mutex_);
  Kept& kept = kept_.at(key);
  kept.bytes.resize(kept.bytes.size() / 2);
  kept.checksum = PageChecksum(key, kept.codec, kept.bytes);
}

void MemoryRemote::Swap(ObjectKey one, ObjectKey other) {
  std::lock_guard lock(mutex_);
  std::swap(kept_.at(one), kept_.at(other));
}

void MemoryRemote::Forget(ObjectKey key) {
  std::lock_guard lock(mutex_);
  kept_.erase(key);
}

void MemoryRemote::Remember(ObjectKey key) {
  std::lock_guard lock(mutex_);
  remembered_[key] = kept_.at(key);
}

void MemoryRemote::GoBack(ObjectKey key) {
  std::lock_guard lock(mutex_);
  kept_[key] = remembered_.at(key);
}

}  // namespace farswap::tier
