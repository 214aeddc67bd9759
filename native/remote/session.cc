#include "remote/session.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "base/thread.h"
#include "remote/backoff.h"
#include "remote/discard_lane.h"
#include "remote/fetch_lane.h"
#include "remote/lane.h"
#include "remote/store_lane.h"
#include "rpc/completion_threads.h"
#include "rpc/target.h"

namespace farswap::remote {

namespace {

constexpr std::uint32_t kProtocol = 2;  // the only version of the page protocol that we speak
constexpr int kKeepaliveMs = 5000;
constexpr int kKeepaliveTimeoutMs = 3000;
constexpr const char* kFencedOff = "fenced: another host daemon has opened this volume";

std::shared_ptr<grpc::Channel> NewChannel(const SessionConfig& config) {
  grpc::ChannelArguments arguments;
  // Or gRPC would give both channels of a session the same TCP connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // We make a new channel for each attempt; gRPC must not wait on its own within one.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(config.open_wait.count()));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // Finds a server that hangs, or a network that swallows, also while nothing is under way.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Pages go straight to the server; retries are ours, and names need no further look-ups.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  return grpc::CreateCustomChannel(rpc::Target(config.address), grpc::InsecureChannelCredentials(),
                                   arguments);
}

}  // namespace

// The session behind its header. Lock order: a lane's lock, then mutex_.
class Session::Worker final : private LaneObserver, private rpc::Completion {
 public:
  Worker(const SessionConfig& config, rpc::CompletionThreads* completions);
  ~Worker() { Stop(); }

  Status status() const;
  void Stop();

  const SessionConfig config;
  FetchLane fetch_lane;
  StoreLane store_lane;
  DiscardLane discard_lane;
  std::atomic<bool> connected{false};

 private:
  struct Connection {
    std::shared_ptr<grpc::Channel> store_channel;
    std::shared_ptr<grpc::Channel> fetch_channel;
    std::unique_ptr<v1::PageStore::Stub> store_stub;
    std::unique_ptr<v1::PageStore::Stub> fetch_stub;
  };

  void Run();
  std::string ServeOneConnection();
  std::string OpenVolume(v1::PageStore::Stub* stub, OpenedVolume* volume);
  std::string CheckOpened(const v1::OpenVolumeResponse& response) const;
  std::string Detach();
  void NoteDisconnected(const std::string& problem);
  TimePoint ServiceLanes();
  template <typename Predicate>
  void WaitUntil(TimePoint until, Predicate done);

  void OnCompleted(bool ok) override;
  void OnLaneWork() override;
  void OnLaneBroken() override;
  void OnLaneRefused(Refusal refusal) override;

  rpc::CompletionThreads* const completions_;

  // Guards all below.
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool work_ = false;
  bool stopping_ = false;
  bool broken_ = false;  // the present connection
  bool fenced_ = false;
  std::string refusal_;  // why the server would not serve the present connection
  bool open_done_ = false;
  // OpenVolume calls that were given up without an answer. The server may serve them yet, which
  // raises the epoch; each may so fence us once, who have not been replaced.
  std::uint64_t opens_unanswered_ = 0;
  std::uint64_t epoch_ = 0;
  std::uint64_t connections_ = 0;
  std::string last_error_;
  TimePoint disconnected_at_ = Clock::now();

  std::mutex stop_mutex_;  // one Stop() joins, the others wait for it
  std::thread thread_;     // last: runs on all of the above
};

Session::Worker::Worker(const SessionConfig& session_config, rpc::CompletionThreads* completions)
    : config(session_config),
      fetch_lane(config.fetch_wait, this),
      store_lane(config.put_wait, std::min(config.put_wait, config.outage_wait), config.full_wait,
                 this),
      discard_lane(this),
      completions_(completions) {
  thread_ = StartThread("fs-remote-" + std::to_string(config.number), [this] { Run(); });
}

void Session::Worker::Stop() {
  const std::lock_guard stop_lock(stop_mutex_);
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

Session::Status Session::Worker::status() const {
  const std::lock_guard lock(mutex_);
  const auto away =
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - disconnected_at_);
  return {
      .connected = connected,
      .capacity_bytes = store_lane.capacity_bytes(),
      .used_bytes = store_lane.used_bytes(),
      .epoch = epoch_,
      .reconnects = connections_ > 0 ? connections_ - 1 : 0,
      .last_error = last_error_,
      .disconnected_ms = connected ? 0 : static_cast<std::uint64_t>(away.count()),
  };
}

void Session::Worker::Run() {
  Backoff backoff(static_cast<std::uint32_t>(config.number + 1));
  for (;;) {
    const TimePoint began = Clock::now();
    NoteDisconnected(ServeOneConnection());
    // A connection that failed at once has not earned a quick retry.
    if (Clock::now() - began >= Backoff::kMax) backoff.Reset();
    WaitUntil(Clock::now() + backoff.Next(), [] { return false; });
    const std::lock_guard lock(mutex_);
    if (stopping_ || fenced_) break;
  }
  fetch_lane.Close();
  store_lane.Close();
}

// Connects, and serves until the connection is lost; returns why it was.
std::string Session::Worker::ServeOneConnection() {
  {
    const std::lock_guard lock(mutex_);
    broken_ = false;
    refusal_.clear();
  }
  Connection connection;
  connection.store_channel = NewChannel(config);
  connection.store_stub = v1::PageStore::NewStub(connection.store_channel);
  OpenedVolume volume;
  std::string problem = OpenVolume(connection.store_stub.get(), &volume);
  if (!problem.empty()) return problem;
  connection.fetch_channel = NewChannel(config);
  connection.fetch_stub = v1::PageStore::NewStub(connection.fetch_channel);
  fetch_lane.Open(connection.fetch_stub.get(), completions_, volume);
  store_lane.Open(connection.store_stub.get(), completions_, volume);
  discard_lane.Open(connection.store_stub.get(), completions_, volume);
  {
    const std::lock_guard lock(mutex_);
    epoch_ = volume.epoch;
    ++connections_;
    connected = true;
  }
  WaitUntil(kNever, [this] { return broken_; });
  return Detach();
}

// Empty when the volume is open, else what the operator should know.
std::string Session::Worker::OpenVolume(v1::PageStore::Stub* stub, OpenedVolume* volume) {
  v1::OpenVolumeRequest request;
  request.set_host_id(config.host_id);
  request.set_device(config.device);
  request.set_incarnation(config.incarnation.data(), config.incarnation.size());
  request.set_slots(config.slots);
  request.set_protocol_min(kProtocol);
  request.set_protocol_max(kProtocol);
  request.set_session_nonce(config.nonce.data(), config.nonce.size());
  request.set_host_name(config.host_name);
  v1::OpenVolumeResponse response;
  grpc::Status outcome;
  grpc::ClientContext context;
  {
    const std::lock_guard lock(mutex_);
    open_done_ = false;
  }
  const auto call = stub->AsyncOpenVolume(&context, request, completions_->queue());
  call->Finish(&response, &outcome, completions_->Tag(this));
  // No deadline of gRPC's: its timers wait until a time of the wall clock.
  WaitUntil(Clock::now() + config.open_wait, [this] { return open_done_; });
  context.TryCancel();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return open_done_; });
  switch (outcome.error_code()) {
    case grpc::StatusCode::CANCELLED:
      ++opens_unanswered_;
      return "cannot open the volume: no answer";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::UNAVAILABLE:
      ++opens_unanswered_;
      break;
    default:
      break;
  }
  if (!outcome.ok()) return "cannot open the volume: " + outcome.error_message();
  if (response.status() == v1::OPEN_STATUS_FENCED) {
    fenced_ = true;
    return kFencedOff;
  }
  std::string problem = CheckOpened(response);
  if (!problem.empty()) return problem;
  *volume = {.id = response.volume_id(), .epoch = response.epoch()};
  store_lane.NoteSpace(response.capacity_bytes(), response.used_bytes());
  return "";
}

std::string Session::Worker::CheckOpened(const v1::OpenVolumeResponse& response) const {
  if (response.status() == v1::OPEN_STATUS_ALREADY_OPEN) {
    return "another host daemon has this volume open: on " + response.owner().host_name() +
           ", at " + response.owner().address();
  }
  if (response.status() != v1::OPEN_STATUS_OK) {
    return "the server does not speak version " + std::to_string(kProtocol) +
           " of the page protocol";
  }
  if (response.batch_pages_max() < tier::PutBatch::kPagesMax) {
    return "the server takes batches of " + std::to_string(response.batch_pages_max()) +
           " pages, " + std::to_string(tier::PutBatch::kPagesMax) + " are needed";
  }
  return "";
}

std::string Session::Worker::Detach() {
  const std::string fetch_problem = fetch_lane.Detach();
  const std::string store_problem = store_lane.Detach();
  discard_lane.Detach();
  const std::lock_guard lock(mutex_);
  if (!refusal_.empty()) return refusal_;
  if (stopping_) return "stopped";
  return "connection lost: " + (fetch_problem.empty() ? store_problem : fetch_problem);
}

void Session::Worker::NoteDisconnected(const std::string& problem) {
  const std::lock_guard lock(mutex_);
  last_error_ = problem;
  if (connected) disconnected_at_ = Clock::now();
  connected = false;
}

TimePoint Session::Worker::ServiceLanes() {
  const TimePoint now = Clock::now();
  return std::min({fetch_lane.Service(now), store_lane.Service(now), discard_lane.Service(now)});
}

// Keeps the lanes going until then, or until `done`, which is called with mutex_ held, or until the
// session is to end.
template <typename Predicate>
void Session::Worker::WaitUntil(TimePoint until, Predicate done) {
  for (;;) {
    const TimePoint next = std::min(until, ServiceLanes());
    std::unique_lock lock(mutex_);
    const auto over = [&] { return stopping_ || fenced_ || done(); };
    changed_.wait_until(lock, next, [&] { return work_ || over(); });
    work_ = false;
    if (over() || Clock::now() >= until) return;
  }
}

// OpenVolume is the only call that the session itself makes.
void Session::Worker::OnCompleted(bool) {
  const std::lock_guard lock(mutex_);
  open_done_ = true;
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
  } else if (opens_unanswered_ > 0) {
    --opens_unanswered_;
    refusal_ = "an earlier attempt to open the volume came to the server late";
  } else {
    fenced_ = true;
    refusal_ = kFencedOff;
  }
  changed_.notify_all();
}

Session::Session(const SessionConfig& config, rpc::CompletionThreads* completions)
    : worker_(std::make_unique<Worker>(config, completions)) {}

Session::~Session() = default;

bool Session::Put(PutPart* part) { return worker_->store_lane.Put(part); }

bool Session::Get(tier::RemoteFetch* fetch) { return worker_->fetch_lane.Get(fetch); }

bool Session::TakesDiscards() const { return worker_->discard_lane.HasRoom(); }

void Session::Discard(std::span<const tier::DiscardItem> items) {
  worker_->discard_lane.Add(items);
}

bool Session::connected() const { return worker_->connected; }

bool Session::writable() const { return worker_->connected && !worker_->store_lane.full(); }

bool Session::full() const { return worker_->store_lane.full(); }

std::uint64_t Session::free_bytes() const {
  const std::uint64_t capacity = worker_->store_lane.capacity_bytes();
  const std::uint64_t used = worker_->store_lane.used_bytes();
  return capacity > used ? capacity - used : 0;
}

Session::Status Session::status() const { return worker_->status(); }

const std::string& Session::address() const { return worker_->config.address; }

void Session::Stop() { worker_->Stop(); }

}  // namespace farswap::remote
