#include "remote/session.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/thread.h"
#include "remote/backoff.h"
#include "remote/discard_lane.h"
#include "remote/get_lane.h"
#include "remote/heartbeat_lane.h"
#include "remote/lane.h"
#include "remote/open_volume.h"
#include "remote/opening_gate.h"
#include "remote/put_lane.h"
#include "rpc/channel.h"
#include "rpc/completion_threads.h"

namespace farswap::remote {

using std::chrono::milliseconds;

namespace {

// The server ends an owner's lease a moment after its last answer implies.
constexpr milliseconds kLeaseSlack{20};
// Free, for a replica of a shard to be made by the reserve of a full server: a shard, compressed.
constexpr std::uint64_t kRepairRoomBytes = std::uint64_t{tier::kShardSlots} * tier::kPageBytes / 4;

// At the address of a removed server, another store may answer one day.
constexpr milliseconds kForgottenPause{60'000};

// Lock order: a lane's lock, then mutex_, then the record's, the gate's or the members'.
class ServerSession final : public Session, private LaneObserver, private rpc::Completion {
 public:
  ServerSession(const SessionConfig& config, SessionPeers* peers,
                rpc::CompletionThreads* completions);
  ~ServerSession() override { ServerSession::Stop(); }

  bool Put(PutPart* part) override { return put_lane_.Put(part); }
  bool Get(tier::RemoteFetch* fetch, MemberIndex member) override {
    return get_lane_.Get(fetch, member);
  }
  bool TakesDiscards() const override { return discard_lane_.HasRoom(); }
  void Discard(std::span<const tier::DiscardItem> items) override { discard_lane_.Add(items); }
  MemberIndex connected_member() const override { return connected_member_; }
  bool stalled() const override { return get_lane_.stalled(); }
  bool writable() const override;
  placement::Member report() const override;

  void Start() override;
  SessionStatus status() const override;
  std::optional<OpenedAt> opened() const override {
    const std::lock_guard lock(mutex_);
    return opened_;
  }
  void OnDecided() override { OnLaneWork(); }
  void OnMoved() override { Break("the server has another address now"); }
  void OnRemoved() override;
  void OnListed() override;
  void BeginStop() override;
  void Stop() override;

 private:
  struct Connection {
    std::string address;
    std::unique_ptr<v1::PageStore::Stub> put_stub;
    std::unique_ptr<v1::PageStore::Stub> get_stub;
    std::unique_ptr<v1::PageStore::Stub> heartbeat_stub;
  };

  void Run();
  Connection Connect();
  std::string ServeOneConnection();
  std::string OpenVolume(const Connection& connection, v1::OpenVolumeResponse* response);
  std::string Ask(const Connection& connection, bool probe, v1::OpenVolumeResponse* response);
  std::string Judge(const Connection& connection, const v1::OpenVolumeResponse& response);
  std::string Identify(const std::string& address, const v1::OpenVolumeResponse& response);
  void Rebind(const Members::Answer& answer);
  void WaitWhileIdle();
  std::string AwaitTurn(const v1::OpenVolumeResponse& response);
  void NoteOpened(const v1::OpenVolumeResponse& response, const OpenedAt& at);
  void Break(const char* why);
  std::string Detach();
  void CloseVolume(const Connection& connection, const OpenedVolume& volume);
  void LearnOwner();
  void NoteDisconnected(const std::string& problem);
  bool broken() const {
    const std::lock_guard lock(mutex_);
    return broken_;
  }
  TimePoint ServiceLanes();
  // Another replica takes over from a silent server; a single one is waited for while it may
  // answer.
  std::optional<milliseconds> SilenceMax() const {
    if (peers_->replicas() == 1) return std::nullopt;
    return cluster_.silence_wait;
  }
  template <typename Predicate>
  void WaitUntil(TimePoint until, Predicate done);
  void BeginCall();
  void AwaitCall(TimePoint until);

  void OnCompleted(bool ok) override;
  void OnLaneWork() override;
  void OnLaneBroken() override;
  void OnAway() override;
  void OnBack() override { peers_->OnOpened(member_, /*intact=*/true); }
  void OnVolumeLost(VolumeLoss loss) override;

  const SessionConfig config_;
  const ClusterConfig& cluster_;
  SessionPeers* const peers_;
  rpc::CompletionThreads* const completions_;
  GetLane get_lane_;
  PutLane put_lane_;
  DiscardLane discard_lane_;
  HeartbeatLane heartbeat_lane_;
  std::atomic<MemberIndex> connected_member_{kNoMember};
  SessionRecord record_;

  // Used only by the session's thread.
  MemberIndex member_ = kNoMember;  // of the lanes
  std::optional<ServerId> run_;     // of the server, at the last opening
  TimePoint owned_since_ = kNever;  // another host has the volume
  milliseconds pause_{0};           // minimum before the next connection

  // Guards all below.
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool work_ = false;
  bool stopping_ = false;
  bool broken_ = false;   // the current connection
  bool removed_ = false;  // the member's store, by an operator
  bool ended_ = false;    // fenced or permanently refused
  bool call_done_ = false;
  std::string refusal_;  // why the current connection is unusable
  std::optional<OpenedAt> opened_;

  std::mutex stop_mutex_;  // one Stop() joins, the others wait for it
  std::thread thread_;     // last: uses all of the above
};

ServerSession::ServerSession(const SessionConfig& session_config, SessionPeers* peers,
                             rpc::CompletionThreads* completions)
    : config_(session_config),
      cluster_(*config_.cluster),
      peers_(peers),
      completions_(completions),
      get_lane_(cluster_.fetch_wait, cluster_.outage_wait, &peers->router(), this),
      put_lane_(cluster_.put_wait, std::min(cluster_.put_wait, cluster_.outage_wait),
                cluster_.full_wait, this),
      discard_lane_(this),
      heartbeat_lane_(
          [this] { return SilenceMax(); },
          {.placement = [this] { return peers_->PlacementOn(connected_member_); },
           .fetch_p99 = [this] { return get_lane_.fetch_p99(); },
           .compared = [this] { return peers_->ComparedOn(connected_member_); },
           .on_damage =
               [this](const auto& reports) { peers_->OnDamage(connected_member_, reports); }},
          &peers->members(), &put_lane_, this),
      record_(Clock::now(), config_.member) {
  if (config_.member == kNoMember) return;
  Rebind({.member = config_.member});
  record_.NoteUuid(peers_->members().UuidOf(member_));
}

void ServerSession::Start() {
  thread_ = StartThread("fs-remote-" + std::to_string(config_.number), [this] { Run(); });
}

void ServerSession::BeginStop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
}

void ServerSession::Stop() {
  const std::lock_guard stop_lock(stop_mutex_);
  BeginStop();
  if (thread_.joinable()) thread_.join();
}

SessionStatus ServerSession::status() const {
  SessionStatus status = record_.Status(Clock::now());
  status.capacity_bytes = put_lane_.capacity_bytes();
  status.used_bytes = put_lane_.used_bytes();
  status.hedged_fetches = get_lane_.hedged_fetches();
  status.fetch_p99_us = static_cast<std::uint64_t>(get_lane_.fetch_p99().count());
  status.at_quota = put_lane_.state() == v1::SERVER_STATE_QUOTA_REACHED;
  return status;
}

void ServerSession::Run() {
  Backoff backoff(static_cast<std::uint32_t>(config_.number + 1));
  for (;;) {
    WaitWhileIdle();
    const TimePoint began = Clock::now();
    pause_ = milliseconds(0);
    NoteDisconnected(ServeOneConnection());
    if (record_.state() == SessionState::kForgotten) pause_ = kForgottenPause;
    // No quick retry after a connection that failed at once.
    if (Clock::now() - began >= Backoff::kMax) backoff.Reset();
    WaitUntil(Clock::now() + std::max(pause_, backoff.Next()),
              [this] { return ended_ || removed_; });
    const std::lock_guard lock(mutex_);
    if (stopping_ || ended_) break;
  }
  OnAway();
  get_lane_.Rebind(kNoMember);
  put_lane_.Rebind(kNoMember);
  LearnOwner();
}

ServerSession::Connection ServerSession::Connect() {
  {
    const std::lock_guard lock(mutex_);
    broken_ = false;
    refusal_.clear();
  }
  Connection connection;
  // After the reset: OnMoved() breaks a connection to the former address.
  connection.address = peers_->members().AddressOf(config_.number);
  connection.put_stub =
      v1::PageStore::NewStub(rpc::NewChannel(connection.address, cluster_.open_wait));
  return connection;
}

// Connects, and serves until the connection is lost; returns why it was.
std::string ServerSession::ServeOneConnection() {
  Connection connection = Connect();
  v1::OpenVolumeResponse response;
  std::string problem = OpenVolume(connection, &response);
  if (!problem.empty()) return problem;
  const OpenedVolume volume{response.volume_id(), response.epoch(), LeaseOf(response)};
  connection.get_stub =
      v1::PageStore::NewStub(rpc::NewChannel(connection.address, cluster_.open_wait));
  connection.heartbeat_stub =
      v1::PageStore::NewStub(rpc::NewChannel(connection.address, cluster_.open_wait));
  get_lane_.Open(connection.get_stub.get(), completions_, volume);
  put_lane_.Open(connection.put_stub.get(), completions_, volume);
  discard_lane_.Open(connection.put_stub.get(), completions_, volume);
  NoteOpened(response, {connection.address, volume});
  // Last: a heartbeat says that the host knows whether the store is intact.
  heartbeat_lane_.Open(connection.heartbeat_stub.get(), completions_, volume);
  WaitUntil(kNever, [] { return false; });
  const bool orderly = !broken();
  problem = Detach();
  if (orderly) CloseVolume(connection, volume);
  return problem;
}

// Retries until the volume is open; then empty, else why the connection is unusable.
std::string ServerSession::OpenVolume(const Connection& connection,
                                      v1::OpenVolumeResponse* response) {
  for (;;) {
    const bool probe = peers_->gate().decision() != OpeningGate::Decision::kOpen;
    std::string problem = Ask(connection, probe, response);
    if (problem.empty()) problem = Judge(connection, *response);
    if (!problem.empty()) return problem;
    if (!probe && response->status() == v1::OPEN_STATUS_OK) return "";
    problem = AwaitTurn(*response);
    if (!problem.empty()) return problem;
  }
}

// Empty if the server has answered.
std::string ServerSession::Ask(const Connection& connection, bool probe,
                               v1::OpenVolumeResponse* response) {
  v1::OpenVolumeRequest request = OpenRequest(config_);
  request.set_probe(probe);
  // Only once: a later owner is a new one.
  request.set_take_over(cluster_.take_over && !record_.ever_connected());
  grpc::Status outcome;
  grpc::ClientContext context;
  BeginCall();
  const auto call = connection.put_stub->AsyncOpenVolume(&context, request, completions_->queue());
  call->Finish(response, &outcome, completions_->Tag(this));
  // No deadline of gRPC, whose timers follow the wall clock.
  WaitUntil(Clock::now() + cluster_.open_wait, [this] { return call_done_; });
  context.TryCancel();
  AwaitCall(kNever);
  if (outcome.ok()) return "";
  record_.SetState(record_.Disconnected());
  peers_->gate().NoteSilent(config_.number);
  const bool given_up = outcome.error_code() == grpc::StatusCode::CANCELLED;
  if (!given_up) put_lane_.NoteRefused();
  return "failed to open the volume: " +
         (given_up ? "no answer" : ReasonOf(outcome.error_message()));
}

// Why the session cannot use this server, or empty.
std::string ServerSession::Judge(const Connection& connection,
                                 const v1::OpenVolumeResponse& response) {
  record_.NoteOwner(response);
  std::string problem = ProblemOf(response);
  if (problem.empty()) problem = Identify(connection.address, response);
  const bool owned = response.status() == v1::OPEN_STATUS_ALREADY_OPEN;
  OpeningGate& gate = peers_->gate();
  const OpeningGate::Decision before = gate.decision();
  // An unused server has answered as well.
  const OpeningGate::Decision after =
      gate.NoteAnswer(config_.number, owned && problem.empty(), LeaseOf(response), Clock::now());
  if (after != before) peers_->OnDecided();
  if (response.status() == v1::OPEN_STATUS_FENCED) {
    record_.SetState(SessionState::kFenced);
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  return problem;
}

std::string ServerSession::Identify(const std::string& address,
                                    const v1::OpenVolumeResponse& response) {
  using Standing = Members::Standing;
  const auto uuid = IdOf(response.server_uuid());
  const auto run = IdOf(response.run_id());
  if (!uuid || !run) return "the server has no identity: it is older than this host; update it";
  const Members::Answer answer =
      peers_->members().Claim(config_.number, address, *uuid, *run, Clock::now());
  const bool moved = answer.standing == Standing::kMoved || answer.standing == Standing::kStale;
  if (!moved && answer.standing != Standing::kSilent) record_.NoteUuid(*uuid);
  if (!moved && answer.standing != Standing::kAccepted) pause_ = HeartbeatOf(LeaseOf(response));
  std::string why = WhyNotUsed(answer, address, *uuid);
  switch (answer.standing) {
    case Standing::kAccepted:
      Rebind(answer);
      return "";
    case Standing::kDuplicate:
      return record_.Refuse(SessionState::kDuplicate, why);
    case Standing::kClone:
      return record_.Refuse(SessionState::kClone, why);
    case Standing::kRemoved:
      return record_.Refuse(SessionState::kRemoved, why);
    case Standing::kMoved:
      peers_->OnMoved(answer.other);
      return record_.Refuse(record_.Disconnected(), why);
    case Standing::kSilent:
      return record_.Refuse(record_.Disconnected(), why);
    case Standing::kStale:
    case Standing::kTooMany:
      break;
  }
  return why;
}

void ServerSession::Rebind(const Members::Answer& answer) {
  if (answer.member == member_) return;
  if (answer.gone != kNoMember) peers_->OnStoreGone(config_.number, answer.gone);
  get_lane_.Rebind(answer.member);
  put_lane_.Rebind(answer.member);
  discard_lane_.Clear();
  member_ = answer.member;
  run_.reset();
}

// Gives up a member that was removed. Without one, waits until the address is listed or changes.
void ServerSession::WaitWhileIdle() {
  const Members& members = peers_->members();
  bool removed = false;
  {
    const std::lock_guard lock(mutex_);
    removed = std::exchange(removed_, false);
    broken_ = false;
  }
  if (removed) Rebind({.gone = member_});
  if (!members.IsIdle(config_.number)) return;
  peers_->gate().NoteSilent(config_.number);
  record_.NoteForgotten();
  WaitUntil(kNever, [&] { return !members.IsIdle(config_.number); });
  record_.NoteListed(Clock::now());
}

// Waits until the next attempt; then empty, else why this connection is unusable.
std::string ServerSession::AwaitTurn(const v1::OpenVolumeResponse& response) {
  const OpeningGate& gate = peers_->gate();
  const OpeningGate::Decision decision = gate.decision();
  const TimePoint now = Clock::now();
  const milliseconds lease = LeaseOf(response);
  const bool owned = response.status() == v1::OPEN_STATUS_ALREADY_OPEN;
  TimePoint again = now + HeartbeatOf(lease);
  bool for_good = decision == OpeningGate::Decision::kRefused;
  if (owned) {
    if (owned_since_ == kNever) owned_since_ = now;
    for_good |= now - owned_since_ >= kLeasesToWait * lease;
    const milliseconds idle(
        std::min(response.owner().idle_ms(), static_cast<std::uint64_t>(lease.count())));
    again = std::min(again, now + (lease - idle) + kLeaseSlack);
  } else {
    owned_since_ = kNever;
    if (decision == OpeningGate::Decision::kOpen) return "";
    if (const TimePoint until = gate.answers_until(); until > now) again = std::min(again, until);
  }
  if (for_good) {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    return record_.GiveUp(owned_since_ != kNever);
  }
  record_.SetState(owned ? SessionState::kWaiting : record_.Disconnected());
  WaitUntil(again, [&] { return gate.decision() != decision; });
  const std::lock_guard lock(mutex_);
  if (stopping_) return "stopped";
  return broken_ ? refusal_ : "";
}

void ServerSession::NoteOpened(const v1::OpenVolumeResponse& response, const OpenedAt& at) {
  peers_->members().NoteLabels(member_, {response.labels().begin(), response.labels().end()});
  put_lane_.NoteSpace(response.capacity_bytes(), response.used_bytes());
  put_lane_.NoteState(response.state());
  owned_since_ = kNever;
  const auto run = IdOf(response.run_id());
  const bool restarted = run_ && run_ != run;
  // A session that has just got the member does not know the run before.
  const bool intact = run_ == run || response.store_intact();
  run_ = run;
  {
    const std::lock_guard lock(mutex_);
    opened_ = at;
  }
  connected_member_ = member_;
  peers_->OnOpened(member_, intact);
  record_.NoteOpened(member_, response.epoch(), restarted && !intact);
}

std::string ServerSession::Detach() {
  const TimePoint lost_at = heartbeat_lane_.SilentSince().value_or(Clock::now());
  const std::string fetch_problem = get_lane_.Detach();
  const std::string heartbeat_problem = heartbeat_lane_.Detach();
  const std::string store_problem = put_lane_.Detach(lost_at);
  discard_lane_.Detach();
  record_.NoteDetached(Clock::now());
  const std::lock_guard lock(mutex_);
  if (!refusal_.empty()) return refusal_;
  if (stopping_) return "stopped";
  for (const std::string& problem : {heartbeat_problem, fetch_problem}) {
    if (!problem.empty()) return "connection lost: " + problem;
  }
  return "connection lost: " + store_problem;
}

// At a stop, so that the next engine does not wait for the lease. Without an answer, it does.
void ServerSession::CloseVolume(const Connection& connection, const OpenedVolume& volume) {
  v1::CloseVolumeRequest request;
  request.set_volume_id(volume.id);
  request.set_epoch(volume.epoch);
  v1::CloseVolumeResponse response;
  grpc::Status outcome;
  grpc::ClientContext context;
  BeginCall();
  const auto call = connection.put_stub->AsyncCloseVolume(&context, request, completions_->queue());
  call->Finish(&response, &outcome, completions_->Tag(this));
  AwaitCall(Clock::now() + cluster_.close_wait);
  context.TryCancel();
  AwaitCall(kNever);
}

// The owner that took over the volume, for the operator.
void ServerSession::LearnOwner() {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || record_.state() != SessionState::kFenced) return;
  }
  const Connection connection = Connect();
  v1::OpenVolumeResponse response;
  if (!Ask(connection, true, &response).empty()) {
    record_.SetState(SessionState::kFenced);
  } else if (response.has_owner()) {
    record_.NoteOwner(response);
  }
}

void ServerSession::NoteDisconnected(const std::string& problem) {
  peers_->members().NoteSilent(config_.number, Clock::now());
  connected_member_ = kNoMember;
  record_.NoteDisconnected(problem);
  const std::lock_guard lock(mutex_);
  broken_ = false;
  opened_.reset();
}

TimePoint ServerSession::ServiceLanes() {
  for (const ServerId& uuid : heartbeat_lane_.TakeRemoved()) peers_->OnRemoved(uuid);
  const TimePoint now = Clock::now();
  return std::min({get_lane_.Service(now), put_lane_.Service(now), discard_lane_.Service(now),
                   heartbeat_lane_.Service(now)});
}

// Services the lanes until the time, or until `done` (called with mutex_ held), or until the
// connection or the session must end.
template <typename Predicate>
void ServerSession::WaitUntil(TimePoint until, Predicate done) {
  for (;;) {
    const TimePoint next = std::min(until, ServiceLanes());
    std::unique_lock lock(mutex_);
    const auto over = [&] { return stopping_ || broken_ || done(); };
    changed_.wait_until(lock, next, [&] { return work_ || over(); });
    work_ = false;
    if (over() || Clock::now() >= until) return;
  }
}

// For the session's own calls, one at a time.
void ServerSession::BeginCall() {
  const std::lock_guard lock(mutex_);
  call_done_ = false;
}

void ServerSession::AwaitCall(TimePoint until) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, until, [this] { return call_done_; });
}

void ServerSession::OnCompleted(bool) {
  const std::lock_guard lock(mutex_);
  call_done_ = true;
  changed_.notify_all();
}

void ServerSession::OnLaneWork() {
  const std::lock_guard lock(mutex_);
  work_ = true;
  changed_.notify_all();
}

void ServerSession::OnLaneBroken() {
  const std::lock_guard lock(mutex_);
  broken_ = true;
  changed_.notify_all();
}

void ServerSession::OnAway() {
  if (member_ != kNoMember) peers_->OnAway(member_);
}

void ServerSession::OnVolumeLost(VolumeLoss loss) {
  const std::lock_guard lock(mutex_);
  // Another lane has reported it, or the next connection will.
  if (broken_) return;
  broken_ = true;
  if (loss == VolumeLoss::kUnknownVolume) {
    refusal_ = "the server does not know the volume";
  } else {
    refusal_ = record_.Refuse(SessionState::kFenced, kFencedOff);
    ended_ = true;
  }
  changed_.notify_all();
}

void ServerSession::Break(const char* why) {
  const std::lock_guard lock(mutex_);
  broken_ = true;
  refusal_ = why;
  changed_.notify_all();
}

void ServerSession::OnRemoved() {
  record_.NoteForgotten();
  const std::lock_guard lock(mutex_);
  removed_ = broken_ = true;
  refusal_ = "an operator removed the server";
  changed_.notify_all();
}

void ServerSession::OnListed() {
  record_.NoteListed(Clock::now());
  Break("listed again");
}

// --- Target -------------------------------------------------------------------------------------

bool ServerSession::writable() const {
  const v1::ServerState state = put_lane_.state();
  return connected_member_ != kNoMember && !put_lane_.full() && state != v1::SERVER_STATE_FULL &&
         state != v1::SERVER_STATE_DISK_FULL && state != v1::SERVER_STATE_QUOTA_REACHED;
}

placement::Member ServerSession::report() const {
  const v1::ServerState state = put_lane_.state();
  const bool leaving = state == v1::SERVER_STATE_DRAINING;
  const std::uint64_t used_bytes = put_lane_.used_bytes();
  return {.capacity_bytes = put_lane_.capacity_bytes(),
          .used_bytes = used_bytes,
          .full = !writable() || (state != v1::SERVER_STATE_ACTIVE && !leaving),
          .reserve = state == v1::SERVER_STATE_FULL &&
                     used_bytes + kRepairRoomBytes <= put_lane_.capacity_bytes(),
          .leaving = leaving};
}

}  // namespace

std::unique_ptr<Session> Session::Create(const SessionConfig& config, SessionPeers* peers,
                                         rpc::CompletionThreads* completions) {
  return std::make_unique<ServerSession>(config, peers, completions);
}

}  // namespace farswap::remote
