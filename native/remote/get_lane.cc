#include "remote/get_lane.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "remote/get_answers.h"
#include "remote/wire.h"

namespace farswap::remote {

using tier::GetResult;
using tier::RemoteFetch;

namespace {

void AnswerFrom(const v1::GetResponse& answer, RemoteFetch* fetch) {
  const bool credible = answer.status() == v1::CALL_STATUS_OK &&
                        static_cast<std::size_t>(answer.results_size()) == fetch->count;
  if (!credible) {
    const bool later = answer.status() == v1::CALL_STATUS_RETRY_AFTER;
    AnswerAll(fetch, later ? GetResult::kUnavailable : GetResult::kCorrupt);
    return;
  }
  for (std::size_t index = 0; index < fetch->count; ++index) {
    const GotObject got = ReadResult(answer.results(static_cast<int>(index)), fetch->keys[index]);
    AnswerLast(fetch, index, got.result, got.object);
  }
  fetch->OnGetDone();
}

}  // namespace

GetLane::GetLane(std::chrono::milliseconds fetch_wait, LaneObserver* observer)
    : fetch_wait_(fetch_wait), observer_(observer) {}

GetLane::~GetLane() { FARSWAP_CHECK(!queue_.oldest() && !stream_); }

bool GetLane::Get(RemoteFetch* fetch, MemberIndex member) {
  GetStream* ready = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (member != member_) return false;
    Record* const record = NewRecord();
    record->fetch = fetch;
    record->expires = Clock::now() + fetch_wait_;
    queue_.Append(record);
    ready = BeginSend();
  }
  SendFrom(ready);
  return true;
}

void GetLane::Rebind(MemberIndex member) {
  {
    const std::lock_guard lock(mutex_);
    FARSWAP_CHECK(!stream_);
    member_ = member;
  }
  AnswerList(TakeExpired(kNever),
             member == kNoMember ? GetResult::kUnavailable : GetResult::kNotFound);
}

void GetLane::Open(v1::PageStore::Stub* stub, rpc::CompletionThreads* completions,
                   OpenedVolume volume) {
  auto stream = std::make_unique<GetStream>(this, observer_, completions);
  GetStream* const opened = stream.get();
  {
    const std::lock_guard lock(mutex_);
    FARSWAP_CHECK(!stream_);
    volume_ = volume;
    stream_ = std::move(stream);
  }
  opened->Start(stub->PrepareAsyncGet(opened->context(), completions->queue()));
}

TimePoint GetLane::Service(TimePoint now) {
  AnswerList(TakeExpired(now), GetResult::kUnavailable);
  const std::lock_guard lock(mutex_);
  // Later fetches expire later, so they need no wake-up.
  return std::min(queue_.expires(), now + fetch_wait_);
}

std::string GetLane::Detach() {
  if (!stream_) return "";
  std::string why = stream_->Shutdown();
  const std::lock_guard lock(mutex_);
  stream_.reset();
  queue_.Rewind();
  return why;
}

void GetLane::OnAnswer(const v1::GetResponse& answer) {
  RemoteFetch* const fetch = Claim(answer.request_id());
  // None: the answer is late, or its id is invalid.
  if (fetch) AnswerFrom(answer, fetch);
}

void GetLane::OnWritable() {
  GetStream* ready = nullptr;
  {
    const std::lock_guard lock(mutex_);
    ready = BeginSend();
  }
  SendFrom(ready);
}

GetLane::Record* GetLane::NewRecord() {
  if (!free_) {
    auto chunk = std::make_unique<Record[]>(kRecordsPerChunk);
    const std::uint64_t base = chunks_.size() * kRecordsPerChunk;
    for (std::uint32_t index = kRecordsPerChunk; index-- > 0;) {
      chunk[index].request_id = base + index;
      chunk[index].next_free = std::exchange(free_, &chunk[index]);
    }
    chunks_.push_back(std::move(chunk));
  }
  return std::exchange(free_, free_->next_free);
}

// Frees a record that has left the queue.
RemoteFetch* GetLane::Release(Record* record) {
  record->request_id += std::uint64_t{1} << 32;
  record->next_free = std::exchange(free_, record);
  return std::exchange(record->fetch, nullptr);
}

RemoteFetch* GetLane::Claim(std::uint64_t request_id) {
  const std::lock_guard lock(mutex_);
  const auto index = static_cast<std::uint32_t>(request_id);
  if (index / kRecordsPerChunk >= chunks_.size()) return nullptr;
  Record* const record = &chunks_[index / kRecordsPerChunk][index % kRecordsPerChunk];
  if (!record->fetch || !record->sent || record->request_id != request_id) return nullptr;
  queue_.Remove(record);
  return Release(record);
}

// Call it with mutex_ held. The stream with a filled message to send, if any.
GetLane::GetStream* GetLane::BeginSend() {
  Record* const record = queue_.oldest_unsent();
  if (!stream_ || !record) return nullptr;
  v1::GetRequest* const request = stream_->BeginWrite();
  if (!request) return nullptr;
  request->Clear();
  request->set_request_id(record->request_id);
  request->set_volume_id(volume_.id);
  request->set_epoch(volume_.epoch);
  for (std::size_t index = 0; index < record->fetch->count; ++index) {
    request->add_keys(record->fetch->keys[index]);
  }
  queue_.MarkSent();
  return stream_.get();
}

// Sends the message of `ready`, then more, while no other thread does.
void GetLane::SendFrom(GetStream* ready) {
  while (ready && ready->Send()) {
    const std::lock_guard lock(mutex_);
    ready = BeginSend();
  }
}

// Fetches that have expired by `now`, oldest first, linked by RemoteFetch::next.
RemoteFetch* GetLane::TakeExpired(TimePoint now) {
  const std::lock_guard lock(mutex_);
  RemoteFetch* first = nullptr;
  RemoteFetch** last = &first;
  while (Record* const record = queue_.TakeExpired(now)) {
    *last = Release(record);
    last = &(*last)->next;
  }
  *last = nullptr;
  return first;
}

}  // namespace farswap::remote
