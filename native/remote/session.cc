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
#include "remote/channel.h"
#include "remote/discard_lane.h"
#include "remote/get_lane.h"
#include "remote/heartbeat_lane.h"
#include "remote/lane.h"
#include "remote/open_volume.h"
#include "remote/opening_gate.h"
#include "remote/put_lane.h"
#include "rpc/completion_threads.h"

namespace farswap::remote {

using std::chrono::milliseconds;

namespace {

// An owner's lease ends at the server a moment after it does by what the server last said.
constexpr milliseconds kLeaseSlack{20};

}  // namespace

// The session behind its header. Lock order: a lane's lock, then mutex_, then the gate's.
class Session::Worker final : private LaneObserver, private rpc::Completion {
 public:
  Worker(const SessionConfig& config, SessionPeers* peers, rpc::CompletionThreads* completions);
  ~Worker() { Stop(); }

  void Start();
  Status status() const;
  void OnDecided();
  void OnMoved();
  void BeginStop();
  void Stop();

  const SessionConfig config;
  GetLane get_lane;
  PutLane put_lane;
  DiscardLane discard_lane;
  HeartbeatLane heartbeat_lane;
  std::atomic<MemberIndex> connected_member{kNoMember};

 private:
  struct Connection {
    std::string address;
    std::shared_ptr<grpc::Channel> put_channel;
    std::shared_ptr<grpc::Channel> get_channel;
    std::unique_ptr<v1::PageStore::Stub> put_stub;
    std::unique_ptr<v1::PageStore::Stub> get_stub;
  };

  void Run();
  Connection Connect();
  std::string ServeOneConnection();
  std::string OpenVolume(const Connection& connection, v1::OpenVolumeResponse* response);
  std::string Ask(const Connection& connection, bool probe, v1::OpenVolumeResponse* response);
  std::string Judge(const Connection& connection, const v1::OpenVolumeResponse& response);
  std::string Identify(const std::string& address, const v1::OpenVolumeResponse& response);
  void Rebind(const Members::Answer& answer);
  std::string AwaitTurn(const v1::OpenVolumeResponse& response);
  std::string GiveUp();
  void NoteOpened(const v1::OpenVolumeResponse& response);
  std::string Detach();
  void CloseVolume(const Connection& connection, const OpenedVolume& volume);
  void LearnOwner();
  void NoteDisconnected(const std::string& problem);
  void NoteOwner(const v1::OpenVolumeResponse& response);
  std::string Refused(SessionState state, const std::string& why);
  void SetState(SessionState state);
  bool broken() const {
    const std::lock_guard lock(mutex_);
    return broken_;
  }
  SessionState Disconnected() const {
    return connections_ > 0 ? SessionState::kAway : SessionState::kConnecting;
  }
  TimePoint ServiceLanes();
  template <typename Predicate>
  void WaitUntil(TimePoint until, Predicate done);
  void BeginCall();
  void AwaitCall(TimePoint until);

  void OnCompleted(bool ok) override;
  void OnLaneWork() override;
  void OnLaneBroken() override;
  void OnLaneRefused(Refusal refusal) override;

  SessionPeers* const peers_;
  rpc::CompletionThreads* const completions_;

  // Of the session's thread alone.
  MemberIndex member_ = kNoMember;  // whose the lanes are
  std::optional<ServerId> run_;     // of the server, when the volume was last opened
  TimePoint owned_since_ = kNever;  // another host has the volume
  milliseconds pause_{0};           // at least, before the next connection

  // Guards all below.
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool work_ = false;
  bool stopping_ = false;
  bool broken_ = false;  // the present connection
  bool ended_ = false;   // fenced or refused for good
  bool call_done_ = false;
  std::string refusal_;  // why the present connection is of no use
  SessionState state_ = SessionState::kConnecting;
  MemberIndex last_member_ = kNoMember;
  std::string uuid_;
  std::string owner_name_;
  std::string owner_address_;
  std::uint64_t epoch_ = 0;
  std::uint64_t connections_ = 0;
  std::uint64_t unclean_restarts_ = 0;
  std::string last_error_;
  TimePoint disconnected_at_ = Clock::now();

  std::mutex stop_mutex_;  // one Stop() joins, the others wait for it
  std::thread thread_;     // last: runs on all of the above
};

Session::Worker::Worker(const SessionConfig& session_config, SessionPeers* peers,
                        rpc::CompletionThreads* completions)
    : config(session_config),
      get_lane(config.fetch_wait, this),
      put_lane(config.put_wait, std::min(config.put_wait, config.outage_wait), config.full_wait,
               this),
      discard_lane(this),
      heartbeat_lane(&put_lane, this),
      peers_(peers),
      completions_(completions) {}

void Session::Worker::Start() {
  thread_ = StartThread("fs-remote-" + std::to_string(config.number), [this] { Run(); });
}

void Session::Worker::BeginStop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
}

void Session::Worker::Stop() {
  const std::lock_guard stop_lock(stop_mutex_);
  BeginStop();
  if (thread_.joinable()) thread_.join();
}

Session::Status Session::Worker::status() const {
  const std::lock_guard lock(mutex_);
  const bool connected = state_ == SessionState::kActive;
  const auto away = std::chrono::duration_cast<milliseconds>(Clock::now() - disconnected_at_);
  return {
      .state = state_,
      .member = last_member_,
      .capacity_bytes = put_lane.capacity_bytes(),
      .used_bytes = put_lane.used_bytes(),
      .epoch = epoch_,
      .reconnects = connections_ > 0 ? connections_ - 1 : 0,
      .last_error = last_error_,
      .disconnected_ms = connected ? 0 : static_cast<std::uint64_t>(away.count()),
      .uuid = uuid_,
      .owner_name = owner_name_,
      .owner_address = owner_address_,
      .unclean_restarts = unclean_restarts_,
  };
}

void Session::Worker::Run() {
  Backoff backoff(static_cast<std::uint32_t>(config.number + 1));
  for (;;) {
    const TimePoint began = Clock::now();
    pause_ = milliseconds(0);
    NoteDisconnected(ServeOneConnection());
    // A connection that failed at once has not earned a quick retry.
    if (Clock::now() - began >= Backoff::kMax) backoff.Reset();
    WaitUntil(Clock::now() + std::max(pause_, backoff.Next()), [this] { return ended_; });
    const std::lock_guard lock(mutex_);
    if (stopping_ || ended_) break;
  }
  get_lane.Close();
  put_lane.Close();
  LearnOwner();
}

Session::Worker::Connection Session::Worker::Connect() {
  {
    const std::lock_guard lock(mutex_);
    broken_ = false;
    refusal_.clear();
  }
  Connection connection;
  // After the reset: OnMoved() breaks a connection to the former address.
  connection.address = peers_->members().AddressOf(config.number);
  connection.put_channel = NewChannel(connection.address, config.open_wait);
  connection.put_stub = v1::PageStore::NewStub(connection.put_channel);
  return connection;
}

// Connects, and serves until the connection is lost; returns why it was.
std::string Session::Worker::ServeOneConnection() {
  Connection connection = Connect();
  v1::OpenVolumeResponse response;
  std::string problem = OpenVolume(connection, &response);
  if (!problem.empty()) return problem;
  const OpenedVolume volume{response.volume_id(), response.epoch(), LeaseOf(response)};
  connection.get_channel = NewChannel(connection.address, config.open_wait);
  connection.get_stub = v1::PageStore::NewStub(connection.get_channel);
  get_lane.Open(connection.get_stub.get(), completions_, volume);
  heartbeat_lane.Open(connection.get_stub.get(), completions_, volume);
  put_lane.Open(connection.put_stub.get(), completions_, volume);
  discard_lane.Open(connection.put_stub.get(), completions_, volume);
  NoteOpened(response);
  WaitUntil(kNever, [] { return false; });
  const bool orderly = !broken();
  problem = Detach();
  if (orderly) CloseVolume(connection, volume);
  return problem;
}

// Asks until the volume is open: empty; or until this connection is of no use: why.
std::string Session::Worker::OpenVolume(const Connection& connection,
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

// Empty when the server has answered.
std::string Session::Worker::Ask(const Connection& connection, bool probe,
                                 v1::OpenVolumeResponse* response) {
  v1::OpenVolumeRequest request = OpenRequest(config.volume);
  request.set_probe(probe);
  // Once: an owner that appears later is a new one.
  request.set_take_over(config.take_over && connections_ == 0);
  grpc::Status outcome;
  grpc::ClientContext context;
  BeginCall();
  const auto call = connection.put_stub->AsyncOpenVolume(&context, request, completions_->queue());
  call->Finish(response, &outcome, completions_->Tag(this));
  // No deadline of gRPC's: its timers wait until a time of the wall clock.
  WaitUntil(Clock::now() + config.open_wait, [this] { return call_done_; });
  context.TryCancel();
  AwaitCall(kNever);
  if (outcome.ok()) return "";
  SetState(Disconnected());
  peers_->gate().NoteSilent(config.number);
  const bool given_up = outcome.error_code() == grpc::StatusCode::CANCELLED;
  return "cannot open the volume: " + (given_up ? "no answer" : outcome.error_message());
}

// Whether the answer is that of a server that this session may use, now or later: empty, or why
// not.
std::string Session::Worker::Judge(const Connection& connection,
                                   const v1::OpenVolumeResponse& response) {
  NoteOwner(response);
  std::string problem = ProblemOf(response);
  if (problem.empty()) problem = Identify(connection.address, response);
  const bool owned = response.status() == v1::OPEN_STATUS_ALREADY_OPEN;
  OpeningGate& gate = peers_->gate();
  const OpeningGate::Decision before = gate.decision();
  // A server that is not used has answered as well.
  const OpeningGate::Decision after =
      gate.NoteAnswer(config.number, owned && problem.empty(), LeaseOf(response), Clock::now());
  if (after != before) peers_->OnDecided();
  if (response.status() == v1::OPEN_STATUS_FENCED) {
    const std::lock_guard lock(mutex_);
    state_ = SessionState::kFenced;
    ended_ = true;
  }
  return problem;
}

std::string Session::Worker::Identify(const std::string& address,
                                      const v1::OpenVolumeResponse& response) {
  using Verdict = Members::Verdict;
  const auto uuid = IdOf(response.server_uuid());
  const auto run = IdOf(response.run_id());
  if (!uuid || !run) return "the server has no identity: it is older than this host, update it";
  const Members::Answer answer =
      peers_->members().Claim(config.number, address, *uuid, *run, Clock::now());
  {
    const std::lock_guard lock(mutex_);
    uuid_ = Hex(*uuid);
  }
  const std::string same =
      address + " has the store of " + answer.other_address + " (uuid " + Hex(*uuid) + ")";
  if (answer.verdict != Verdict::kAccepted) pause_ = HeartbeatOf(LeaseOf(response));
  switch (answer.verdict) {
    case Verdict::kAccepted:
      Rebind(answer);
      return "";
    case Verdict::kDuplicate:
      return Refused(SessionState::kDuplicate, same + ": it is one server by two names");
    case Verdict::kClone:
      return Refused(SessionState::kClone,
                     same + ", which also answers: one is a copy of the other");
    case Verdict::kSilent:
      return Refused(Disconnected(), same + ", which stopped answering a moment ago");
    case Verdict::kMoved:
      pause_ = milliseconds(0);
      peers_->OnMoved(answer.other);
      return Refused(Disconnected(), same + ", which no longer answers there");
    case Verdict::kStale:
      break;
    case Verdict::kTooMany:
      return "more than " + std::to_string(Members::kMembersMax) + " stores were seen";
  }
  pause_ = milliseconds(0);
  return "the server has another address now";
}

void Session::Worker::Rebind(const Members::Answer& answer) {
  if (answer.member == member_) return;
  if (answer.gone != kNoMember) peers_->OnStoreGone(config.number, answer.gone);
  get_lane.Rebind(answer.member);
  put_lane.Rebind(answer.member);
  discard_lane.Clear();
  member_ = answer.member;
  run_.reset();
}

// Until it is worth asking again: empty; or why it never is on this connection.
std::string Session::Worker::AwaitTurn(const v1::OpenVolumeResponse& response) {
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
  if (for_good) return GiveUp();
  SetState(owned ? SessionState::kWaiting : Disconnected());
  WaitUntil(again, [&] { return gate.decision() != decision; });
  const std::lock_guard lock(mutex_);
  if (stopping_) return "stopped";
  return broken_ ? refusal_ : "";
}

std::string Session::Worker::GiveUp() {
  const std::lock_guard lock(mutex_);
  state_ = SessionState::kAlreadyOpen;
  ended_ = true;
  last_error_ = owned_since_ == kNever
                    ? "not opened: another memory server names an owner"
                    : "already open: " + owner_name_ + " (" + owner_address_ + ") has the volume";
  return last_error_;
}

void Session::Worker::NoteOwner(const v1::OpenVolumeResponse& response) {
  const std::lock_guard lock(mutex_);
  if (!response.has_owner()) {
    owner_name_.clear();
    owner_address_.clear();
    return;
  }
  owner_name_ = response.owner().host_name();
  owner_address_ = response.owner().address();
}

void Session::Worker::NoteOpened(const v1::OpenVolumeResponse& response) {
  put_lane.NoteSpace(response.capacity_bytes(), response.used_bytes());
  put_lane.NoteState(response.state());
  owned_since_ = kNever;
  const auto run = IdOf(response.run_id());
  const bool restarted = run_ && run_ != run;
  run_ = run;
  connected_member = member_;
  const std::lock_guard lock(mutex_);
  if (restarted && !response.store_intact()) ++unclean_restarts_;
  epoch_ = response.epoch();
  ++connections_;
  last_member_ = member_;
  state_ = SessionState::kActive;
}

std::string Session::Worker::Detach() {
  const std::string fetch_problem = get_lane.Detach();
  const std::string heartbeat_problem = heartbeat_lane.Detach();
  const std::string store_problem = put_lane.Detach();
  discard_lane.Detach();
  const std::lock_guard lock(mutex_);
  disconnected_at_ = Clock::now();
  if (!refusal_.empty()) return refusal_;
  if (stopping_) return "stopped";
  for (const std::string& problem : {heartbeat_problem, fetch_problem}) {
    if (!problem.empty()) return "connection lost: " + problem;
  }
  return "connection lost: " + store_problem;
}

// At an orderly stop: the next engine need not wait for the lease. Without an answer, it does.
void Session::Worker::CloseVolume(const Connection& connection, const OpenedVolume& volume) {
  v1::CloseVolumeRequest request;
  request.set_volume_id(volume.id);
  request.set_epoch(volume.epoch);
  v1::CloseVolumeResponse response;
  grpc::Status outcome;
  grpc::ClientContext context;
  BeginCall();
  const auto call = connection.put_stub->AsyncCloseVolume(&context, request, completions_->queue());
  call->Finish(&response, &outcome, completions_->Tag(this));
  AwaitCall(Clock::now() + config.close_wait);
  context.TryCancel();
  AwaitCall(kNever);
}

// Of a volume that was taken over, for the operator.
void Session::Worker::LearnOwner() {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || state_ != SessionState::kFenced) return;
  }
  const Connection connection = Connect();
  v1::OpenVolumeResponse response;
  if (!Ask(connection, true, &response).empty()) {
    SetState(SessionState::kFenced);
  } else if (response.has_owner()) {
    NoteOwner(response);
  }
}

void Session::Worker::NoteDisconnected(const std::string& problem) {
  peers_->members().NoteSilent(config.number, Clock::now());
  const std::lock_guard lock(mutex_);
  last_error_ = problem;
  broken_ = false;
  connected_member = kNoMember;
  if (state_ == SessionState::kActive) state_ = SessionState::kAway;
}

std::string Session::Worker::Refused(SessionState state, const std::string& why) {
  const std::lock_guard lock(mutex_);
  state_ = state;
  last_error_ = why;
  return why;
}

void Session::Worker::SetState(SessionState state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
}

TimePoint Session::Worker::ServiceLanes() {
  const TimePoint now = Clock::now();
  return std::min({get_lane.Service(now), put_lane.Service(now), discard_lane.Service(now),
                   heartbeat_lane.Service(now)});
}

// Keeps the lanes going until then, or until `done`, which is called with mutex_ held, or until the
// connection or the session is to end.
template <typename Predicate>
void Session::Worker::WaitUntil(TimePoint until, Predicate done) {
  for (;;) {
    const TimePoint next = std::min(until, ServiceLanes());
    std::unique_lock lock(mutex_);
    const auto over = [&] { return stopping_ || broken_ || done(); };
    changed_.wait_until(lock, next, [&] { return work_ || over(); });
    work_ = false;
    if (over() || Clock::now() >= until) return;
  }
}

// Of the calls that the session itself makes, one at a time.
void Session::Worker::BeginCall() {
  const std::lock_guard lock(mutex_);
  call_done_ = false;
}

void Session::Worker::AwaitCall(TimePoint until) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, until, [this] { return call_done_; });
}

void Session::Worker::OnCompleted(bool) {
  const std::lock_guard lock(mutex_);
  call_done_ = true;
  changed_.notify_all();
}

void Session::Worker::OnLaneWork() {
  const std::lock_guard lock(mutex_);
  work_ = true;
  changed_.notify_all();
}

void Session::Worker::OnLaneBroken() {
  const std::lock_guard lock(mutex_);
  broken_ = true;
  changed_.notify_all();
}

void Session::Worker::OnLaneRefused(Refusal refusal) {
  const std::lock_guard lock(mutex_);
  // Another lane has said so already, or the next connection will.
  if (broken_) return;
  broken_ = true;
  if (refusal == Refusal::kUnknownVolume) {
    refusal_ = "the server did not know the volume";
  } else {
    refusal_ = last_error_ = kFencedOff;
    state_ = SessionState::kFenced;
    ended_ = true;
  }
  changed_.notify_all();
}

void Session::Worker::OnDecided() { OnLaneWork(); }

void Session::Worker::OnMoved() {
  const std::lock_guard lock(mutex_);
  broken_ = true;
  refusal_ = "the server has another address now";
  changed_.notify_all();
}

Session::Session(const SessionConfig& config, SessionPeers* peers,
                 rpc::CompletionThreads* completions)
    : worker_(std::make_unique<Worker>(config, peers, completions)) {}

Session::~Session() = default;

void Session::Start() { worker_->Start(); }

bool Session::Put(PutPart* part) { return worker_->put_lane.Put(part); }

bool Session::Get(tier::RemoteFetch* fetch, MemberIndex member) {
  return worker_->get_lane.Get(fetch, member);
}

bool Session::TakesDiscards() const { return worker_->discard_lane.HasRoom(); }

void Session::Discard(std::span<const tier::DiscardItem> items) {
  worker_->discard_lane.Add(items);
}

MemberIndex Session::connected_member() const { return worker_->connected_member; }

bool Session::writable() const {
  const v1::ServerState state = worker_->put_lane.state();
  return connected_member() != kNoMember && !worker_->put_lane.full() &&
         state != v1::SERVER_STATE_FULL && state != v1::SERVER_STATE_DISK_FULL;
}

bool Session::placeable() const {
  return writable() && worker_->put_lane.state() == v1::SERVER_STATE_ACTIVE;
}

std::uint64_t Session::free_bytes() const {
  const std::uint64_t capacity = worker_->put_lane.capacity_bytes();
  const std::uint64_t used = worker_->put_lane.used_bytes();
  return capacity > used ? capacity - used : 0;
}

Session::Status Session::status() const { return worker_->status(); }

void Session::OnDecided() { worker_->OnDecided(); }

void Session::OnMoved() { worker_->OnMoved(); }

void Session::BeginStop() { worker_->BeginStop(); }

void Session::Stop() { worker_->Stop(); }

}  // namespace farswap::remote
