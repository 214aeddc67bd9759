// Pending parts of batches for one memory server. They are sent in order, a few at a time, and
// answered in that order. A part outlives the connection: it is sent again on the next one until it
// is answered, or put_wait after Put(). After `outage_wait` without the server, parts are refused
// at once, so that its outage does not delay batches with other servers. If a batch waits for this
// server alone, the same holds when it is connected but answers no part for so long, until it has
// answered every part that it was sent, and at once when it refuses a connection. A part for shards
// that all join is left after `outage_wait` even if the server answers others: it is slow, and the
// replicas that join leave their sets.
//
// The session's thread does all work, including OnPutDone(): copying a batch into its message takes
// longer than a fetch, so neither the completion thread nor Put()'s caller should do it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "farswap/v1/page_store.grpc.pb.h"
#include "remote/lane.h"
#include "remote/put_part.h"
#include "remote/resend_queue.h"
#include "remote/stream.h"

namespace farswap::remote {

class PutLane final : public Stream<v1::PutRequest, v1::PutResponse>::Owner {
 public:
  /// Parts sent but not answered: enough to keep the server busy.
  static constexpr std::size_t kPartsInFlightMax = 8;

  /// A server that answered FULL counts as full for `full_wait`.
  PutLane(std::chrono::milliseconds put_wait, std::chrono::milliseconds outage_wait,
          std::chrono::milliseconds full_wait, LaneObserver* observer);
  ~PutLane();  // after Rebind(kNoMember)

  /// Takes the part; false if the lane is not its member's, or the server unreachable for too long.
  /// Any thread.
  bool Put(PutPart* part);
  /// The server's last report. Any thread.
  bool full() const { return Clock::now().time_since_epoch().count() < full_until_.load(); }
  std::uint64_t capacity_bytes() const { return capacity_bytes_.load(); }
  std::uint64_t used_bytes() const { return used_bytes_.load(); }
  v1::ServerState state() const { return state_.load(); }

  void NoteSpace(std::uint64_t capacity_bytes, std::uint64_t used_bytes);
  void NoteState(v1::ServerState state) { state_ = state; }

  // Only for the session's thread.

  /// Changes the lane's member, and answers parts of the former one with kUnavailable. The lane
  /// must be detached. kNoMember: takes no parts from then on.
  void Rebind(MemberIndex member);
  void Open(v1::PageStore::Stub* stub, rpc::CompletionThreads* completions, OpenedVolume volume);
  /// Sends, delivers answers, ends expired parts; returns the latest time of the next call.
  TimePoint Service(TimePoint now);
  /// Drops the connection, which was lost at that time; returns why. Pending parts wait for the
  /// next Open().
  std::string Detach(TimePoint lost_at);
  /// A connection was refused: the server does not run.
  void NoteRefused() { refuses_connections_ = true; }

 private:
  using PutStream = Stream<v1::PutRequest, v1::PutResponse>;

  void OnAnswer(const v1::PutResponse& answer) override;
  void OnWritable() override { observer_->OnLaneWork(); }

  bool SendOne();
  void Answer(const v1::PutResponse& answer);
  void Refuse();
  void EndStall();
  bool Stalled(TimePoint now);
  bool Away(TimePoint now);
  bool HoldsUpABatch() const;
  TimePoint LateAt(const PutPart& part) const { return part.expires - put_wait_ + outage_wait_; }
  void LeaveLate(TimePoint now);
  TimePoint NextCheck(TimePoint now) const;
  void EndExpired(TimePoint now);
  void FinishAnswered();

  const std::chrono::milliseconds put_wait_;
  const std::chrono::milliseconds outage_wait_;
  const std::chrono::milliseconds full_wait_;
  LaneObserver* const observer_;

  // Used only by the session's thread.
  std::unique_ptr<PutStream> stream_;
  OpenedVolume volume_;
  TimePoint detached_at_;
  bool refuses_connections_ = false;  // since the last connection

  // Guards all below; never held during callbacks.
  std::mutex mutex_;
  ResendQueue<PutPart> queue_;
  PutPart* answered_ = nullptr;  // linked by `newer`, newest first; waits for FinishAnswered()
  std::uint64_t batch_id_last_ = 0;
  MemberIndex member_ = kNoMember;
  bool refusing_ = false;
  std::uint64_t batch_id_sent_ = 0;  // the last one
  std::uint64_t stall_ends_at_ = 0;  // the batch whose answer ends a stall; 0: there is none
  bool stall_ended_ = false;
  TimePoint waiting_since_;  // for the next answer, while parts are sent

  // Hints for placement and status; they order no other memory access.
  std::atomic<std::uint64_t> capacity_bytes_{0};
  std::atomic<std::uint64_t> used_bytes_{0};
  std::atomic<v1::ServerState> state_{v1::SERVER_STATE_UNSPECIFIED};
  std::atomic<Clock::rep> full_until_{Clock::rep{0}};
};

}  // namespace farswap::remote
