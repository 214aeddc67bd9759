// Fetches under way to one memory server. They are sent in the order they came, pipelined on one
// stream, each with an id of its own; answers come in any order. A fetch outlives the connection:
// it is sent again on the next one, until it is answered or fetch_wait after Get() has passed.
//
// Get() sends on the caller's thread when the stream is free, else the end of the write before it
// does: nobody waits for a turn and no thread has to be woken. Answers are given on the completion
// thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "farswap/v1/page_store.grpc.pb.h"
#include "remote/lane.h"
#include "remote/members.h"
#include "remote/resend_queue.h"
#include "remote/stream.h"
#include "tier/remote_store.h"

namespace farswap::remote {

class GetLane final : private Stream<v1::GetRequest, v1::GetResponse>::Owner {
 public:
  GetLane(std::chrono::milliseconds fetch_wait, LaneObserver* observer);
  ~GetLane();  // after Close()

  /// Takes the fetch; false when the lane is closed or is not the member's. Any thread.
  bool Get(tier::RemoteFetch* fetch, MemberIndex member);

  // Of the session's thread.

  /// The lane is another member's from now on; the former one's fetches are answered kNotFound. The
  /// lane must be detached.
  void Rebind(MemberIndex member);
  void Open(v1::PageStore::Stub* stub, rpc::CompletionThreads* completions, OpenedVolume volume);
  /// Answers what has waited too long; returns when it wants to be called again, at the latest.
  TimePoint Service(TimePoint now);
  /// Gives up the connection; returns why it was lost. What is under way waits for the next Open().
  std::string Detach();
  /// Answers everything with kUnavailable. The lane must be detached.
  void Close();

 private:
  using GetStream = Stream<v1::GetRequest, v1::GetResponse>;

  struct Record {
    tier::RemoteFetch* fetch = nullptr;
    TimePoint expires;
    // Index in the pool and, above it, a generation: the answer to an earlier use is not ours.
    std::uint64_t request_id = 0;
    Record* older = nullptr;
    Record* newer = nullptr;
    Record* next_free = nullptr;
    bool sent = false;
  };

  static constexpr std::uint32_t kRecordsPerChunk = 1024;

  void OnAnswer(const v1::GetResponse& answer) override;
  void OnWritable() override;
  void OnBroken() override;

  Record* NewRecord();
  tier::RemoteFetch* Release(Record* record);
  tier::RemoteFetch* Claim(std::uint64_t request_id);
  GetStream* BeginSend();
  void SendFrom(GetStream* ready);
  tier::RemoteFetch* TakeExpired(TimePoint now);

  const std::chrono::milliseconds fetch_wait_;
  LaneObserver* const observer_;

  // Guards all below. Taken before the stream's own lock; never held while anybody is called back.
  std::mutex mutex_;
  ResendQueue<Record> queue_;
  // Grows to the largest number of fetches that were ever under way at once, then allocates no
  // more.
  std::vector<std::unique_ptr<Record[]>> chunks_;
  Record* free_ = nullptr;
  std::unique_ptr<GetStream> stream_;
  OpenedVolume volume_;
  MemberIndex member_ = kNoMember;
  bool closed_ = false;
};

}  // namespace farswap::remote
