// Pending fetches of one memory server. They are sent in order, pipelined on one stream, each with
// its id; answers come in any order. A fetch outlives the connection: it is sent again on the next
// one until it is answered, until another replica can answer it, or fetch_wait after it began.
//
// A fetch belongs to one lane at a time, so that two replicas never answer it at once: one that is
// slow (hedging.h) leaves its lane for another replica's, once, and a late answer finds no record.
// If no fetch is answered for outage_wait, the lane is stalled: all that can leaves it, and new
// fetches go elsewhere, until an answer comes. While fetches are under way the session's thread
// checks every kWatchEvery; so Get() wakes it only after a pause.
//
// Get() sends on the caller's thread if the stream is free, else the end of the previous write
// does: no thread waits or is woken. The completion thread runs callbacks.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "farswap/v1/page_store.grpc.pb.h"
#include "remote/fetch_times.h"
#include "remote/get_answers.h"
#include "remote/hedging.h"
#include "remote/lane.h"
#include "remote/members.h"
#include "remote/resend_queue.h"
#include "remote/stream.h"
#include "tier/remote_store.h"

namespace farswap::remote {

class GetLane final : public Stream<v1::GetRequest, v1::GetResponse>::Owner {
 public:
  GetLane(std::chrono::milliseconds fetch_wait, std::chrono::milliseconds outage_wait,
          FetchRouter* router, LaneObserver* observer);
  ~GetLane();  // after Rebind(kNoMember)

  /// Takes the fetch; false if the lane is not the member's. Any thread.
  bool Get(tier::RemoteFetch* fetch, MemberIndex member);
  /// Any thread.
  bool stalled() const { return stalled_; }
  /// How many have moved on to another replica since this server was slow. Any thread.
  std::uint64_t hedged_fetches() const { return hedged_fetches_; }
  /// Of recent fetches; 0: too few. Any thread.
  std::chrono::microseconds fetch_p99() const {
    const std::lock_guard lock(mutex_);
    return times_.Percentile99(Clock::now());
  }

  // Only for the session's thread.

  /// Changes the lane's member, and answers fetches of the former one: with kNotFound, since its
  /// store is gone, or with kUnavailable for kNoMember, when the session ends. The lane must be
  /// detached.
  void Rebind(MemberIndex member);
  void Open(v1::PageStore::Stub* stub, rpc::CompletionThreads* completions, OpenedVolume volume);
  /// Ends expired fetches, and moves others on while the lane is detached; returns the latest time
  /// of the next call.
  TimePoint Service(TimePoint now);
  /// Drops the connection; returns why it was lost. Pending fetches wait for the next Open().
  std::string Detach();

 private:
  using GetStream = Stream<v1::GetRequest, v1::GetResponse>;

  struct Record {
    tier::RemoteFetch* fetch = nullptr;
    TimePoint expires;
    TimePoint asked_at;
    // Index in the pool, and above it a generation, which rejects answers to earlier uses.
    std::uint64_t request_id = 0;
    Record* older = nullptr;
    Record* newer = nullptr;
    Record* next_free = nullptr;
    bool sent = false;
  };

  static constexpr std::uint32_t kRecordsPerChunk = 1024;

  void OnAnswer(const v1::GetResponse& answer) override;
  void OnWritable() override;

  Record* NewRecord();
  tier::RemoteFetch* Release(Record* record);
  tier::RemoteFetch* Claim(std::uint64_t request_id, TimePoint now);
  GetStream* BeginSend();
  void SendFrom(GetStream* ready);
  template <typename Predicate>
  tier::RemoteFetch* TakeWhere(Predicate wanted);
  tier::RemoteFetch* TakeExpired(TimePoint now);
  tier::RemoteFetch* TakeSlow(TimePoint now);
  TimePoint Watch(TimePoint now);
  void Deliver(const v1::GetResponse& answer, tier::RemoteFetch* fetch);
  void AnswerAll(tier::RemoteFetch* first, tier::GetResult result);

  const std::chrono::milliseconds fetch_wait_;
  const std::chrono::milliseconds outage_wait_;
  FetchRouter* const router_;
  LaneObserver* const observer_;

  // Guards all below. Taken before the stream's lock; never held during callbacks.
  mutable std::mutex mutex_;
  ResendQueue<Record> queue_;
  // Grows to the maximum number of pending fetches, then allocates no more.
  std::vector<std::unique_ptr<Record[]>> chunks_;
  Record* free_ = nullptr;
  std::unique_ptr<GetStream> stream_;
  OpenedVolume volume_;
  MemberIndex member_ = kNoMember;
  Hedging hedging_;
  mutable FetchTimes times_;
  bool watching_ = false;
  TimePoint busy_at_;        // the last check that found a fetch
  TimePoint waiting_since_;  // for the next answer, while fetches are sent
  std::atomic<bool> stalled_{false};
  std::atomic<std::uint64_t> hedged_fetches_{0};
};

}  // namespace farswap::remote
