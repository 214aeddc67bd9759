#include "remote/get_lane.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/check.h"
#include "remote/wire.h"

namespace farswap::remote {

using tier::GetResult;
using tier::RemoteFetch;
using tier::Verdict;

namespace {

constexpr std::chrono::milliseconds kWatchEvery{2};
constexpr std::chrono::milliseconds kWatchIdle{100};  // without fetches, it ends

}  // namespace

GetLane::GetLane(std::chrono::milliseconds fetch_wait, std::chrono::milliseconds outage_wait,
                 FetchRouter* router, LaneObserver* observer)
    : fetch_wait_(fetch_wait), outage_wait_(outage_wait), router_(router), observer_(observer) {}

GetLane::~GetLane() { FARSWAP_CHECK(!queue_.oldest() && !stream_); }

bool GetLane::Get(RemoteFetch* fetch, MemberIndex member) {
  GetStream* ready = nullptr;
  TimePoint& expires = fetch->route.expires;
  const bool first = expires == TimePoint{};
  const TimePoint now = Clock::now();
  if (first) expires = now + fetch_wait_;
  bool wake = !first;  // the end of its time is nearer than that of a new one
  {
    const std::lock_guard lock(mutex_);
    if (member != member_) return false;
    Record* const record = NewRecord();
    record->fetch = fetch;
    record->asked_at = now;
    hedging_.NoteFetch(now);
    if (!watching_ && router_->HasReplicas()) {
      wake = watching_ = true;
      busy_at_ = now;
    }
    // Later in the queue, later in time: what comes from another lane may wait a little longer.
    record->expires = queue_.newest() ? std::max(expires, queue_.newest()->expires) : expires;
    queue_.Append(record);
    ready = BeginSend();
  }
  SendFrom(ready);
  if (wake) observer_->OnLaneWork();
  return true;
}

void GetLane::Rebind(MemberIndex member) {
  {
    const std::lock_guard lock(mutex_);
    FARSWAP_CHECK(!stream_);
    member_ = member;
  }
  AnswerAll(TakeExpired(kNever),
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
    waiting_since_ = Clock::now();
  }
  opened->Start(stub->PrepareAsyncGet(opened->context(), completions->queue()));
}

TimePoint GetLane::Service(TimePoint now) {
  ForEachFetch(TakeExpired(now), [](auto* fetch) { EndFetch(fetch, GetResult::kUnavailable); });
  const TimePoint watch_at = Watch(now);
  const std::lock_guard lock(mutex_);
  // Later fetches expire later, so they need no wake-up.
  return std::min({queue_.expires(), now + fetch_wait_, watch_at});
}

// Moves fetches to other replicas; returns when to check again.
TimePoint GetLane::Watch(TimePoint now) {
  RemoteFetch* slow = nullptr;
  TimePoint next = now + kWatchEvery;
  {
    const std::lock_guard lock(mutex_);
    if (queue_.oldest()) busy_at_ = now;
    if (!router_->HasReplicas() || now >= busy_at_ + kWatchIdle) watching_ = false;
    if (!watching_) next = kNever;
    const bool waits = stream_ && watching_ && queue_.sent_count() > 0;
    if (waits && now >= waiting_since_ + outage_wait_) stalled_ = true;
    if (waits && !stalled_) slow = TakeSlow(now);
  }
  ForEachFetch(slow, [this](auto* fetch) { router_->MoveOn(fetch); });
  if (!stream_ || stalled_) {
    const auto movable = [this, now](const Record& record) {
      const bool moves = router_->HasAnother(*record.fetch);
      if (moves) times_.Note(now - record.asked_at, now);
      return moves;
    };
    ForEachFetch(TakeWhere(movable), [this](auto* fetch) { router_->MoveOn(fetch); });
  }
  return next;
}

// Call it with mutex_ held. Later fetches were asked for later.
RemoteFetch* GetLane::TakeSlow(TimePoint now) {
  RemoteFetch* first = nullptr;
  for (Record* record = queue_.oldest(); record && record->asked_at + hedging_.delay() <= now;) {
    Record* const next = record->newer;
    if (!record->fetch->route.hedged && router_->HasAnother(*record->fetch) && hedging_.Take(now)) {
      times_.Note(now - record->asked_at, now);
      queue_.Remove(record);
      RemoteFetch* const fetch = Release(record);
      fetch->route.hedged = true;
      ++hedged_fetches_;
      fetch->route.next = std::exchange(first, fetch);
    }
    record = next;
  }
  return first;
}

std::string GetLane::Detach() {
  if (!stream_) return "";
  std::string why = stream_->Shutdown();
  const std::lock_guard lock(mutex_);
  stream_.reset();
  queue_.Rewind();
  stalled_ = false;
  return why;
}

void GetLane::OnAnswer(const v1::GetResponse& answer) {
  RemoteFetch* const fetch = Claim(answer.request_id(), Clock::now());
  // None: the answer is late, or its id is invalid.
  if (fetch) Deliver(answer, fetch);
}

void GetLane::Deliver(const v1::GetResponse& answer, RemoteFetch* fetch) {
  GetResults results;
  const auto open = static_cast<std::size_t>(std::popcount(fetch->route.open));
  const bool credible = answer.status() == v1::CALL_STATUS_OK &&
                        static_cast<std::size_t>(answer.results_size()) == open;
  if (!credible) {
    const bool later = answer.status() == v1::CALL_STATUS_RETRY_AFTER;
    results.fill(later ? GetResult::kUnavailable : GetResult::kCorrupt);
  } else {
    int position = 0;
    ForEachOpen(*fetch, [&](std::size_t index) {
      const GotObject got = ReadResult(answer.results(position++), fetch->keys[index]);
      results[index] = got.result;
      if (got.result != GetResult::kFound) return;
      results[index] = GetResult::kCorrupt;  // if it is not accepted
      if (fetch->OnObject(index, got.object) == Verdict::kAccept) {
        fetch->route.open &= ~(std::uint64_t{1} << index);
      }
    });
  }
  router_->OnAnswered(fetch, results);
}

// `first` heads a list.
void GetLane::AnswerAll(RemoteFetch* first, GetResult result) {
  GetResults results;
  results.fill(result);
  ForEachFetch(first, [&](RemoteFetch* fetch) { router_->OnAnswered(fetch, results); });
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

RemoteFetch* GetLane::Claim(std::uint64_t request_id, TimePoint now) {
  const std::lock_guard lock(mutex_);
  waiting_since_ = now;
  if (stalled_) stalled_ = false;
  const auto index = static_cast<std::uint32_t>(request_id);
  if (index / kRecordsPerChunk >= chunks_.size()) return nullptr;
  Record* const record = &chunks_[index / kRecordsPerChunk][index % kRecordsPerChunk];
  if (!record->fetch || !record->sent || record->request_id != request_id) return nullptr;
  queue_.Remove(record);
  hedging_.NoteAnswer(now - record->asked_at);
  times_.Note(now - record->asked_at, now);
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
  ForEachOpen(*record->fetch,
              [&](std::size_t index) { request->add_keys(record->fetch->keys[index]); });
  if (queue_.sent_count() == 0) waiting_since_ = std::max(waiting_since_, record->asked_at);
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

// Fetches whose record is wanted, oldest first, linked by Route::next.
template <typename Predicate>
RemoteFetch* GetLane::TakeWhere(Predicate wanted) {
  const std::lock_guard lock(mutex_);
  RemoteFetch* first = nullptr;
  RemoteFetch** last = &first;
  for (Record* record = queue_.oldest(); record;) {
    Record* const next = record->newer;
    if (wanted(*record)) {
      queue_.Remove(record);
      *last = Release(record);
      last = &(*last)->route.next;
    }
    record = next;
  }
  *last = nullptr;
  return first;
}

RemoteFetch* GetLane::TakeExpired(TimePoint now) {
  {
    const std::lock_guard lock(mutex_);
    if (queue_.expires() > now) return nullptr;
  }
  return TakeWhere([now](const Record& record) { return record.expires <= now; });
}

}  // namespace farswap::remote
