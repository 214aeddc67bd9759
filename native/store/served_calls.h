// The objects of PageService that gRPC completes: a call each, and the ticker. Private to
// page_service.cc.
#pragma once

#include <grpc/support/time.h>
#include <grpcpp/alarm.h>

#include <condition_variable>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>

#include "base/thread.h"
#include "store/page_service.h"
#include "tier/bundle.h"
#include "tier/page.h"

namespace farswap::store {

// The volume that a request is for, and the bytes that it costs, for its turn.
template <typename Request>
std::uint64_t VolumeOf(const Request& request) {
  if constexpr (requires { request.volume_id(); }) {
    return request.volume_id();
  } else {
    return 0;
  }
}
template <typename Request>
std::uint64_t BytesOf(const Request& /*request*/) {
  return kListedEntriesMax * RecordBytes(0);
}
inline std::uint64_t BytesOf(const v1::PutRequest& request) {
  std::uint64_t bytes = 0;
  for (const v1::Object& object : request.objects()) bytes += RecordBytes(object.bytes().size());
  return bytes;
}
inline std::uint64_t BytesOf(const v1::GetRequest& request) {
  std::uint64_t bytes = 0;
  for (const std::uint64_t key : request.keys()) {
    const bool bundle = tier::IsBundleKey(static_cast<tier::ObjectKey>(key));
    bytes += RecordBytes(bundle ? tier::kBundleBytesMax : tier::kPageBytes);
  }
  return bytes;
}
inline std::uint64_t BytesOf(const v1::DiscardRequest& request) {
  return static_cast<std::uint64_t>(request.items_size()) * RecordBytes(0);
}

// A call that gives gRPC one operation at a time.
class PageService::Call : public rpc::Completion, public FairQueue::Job {
 public:
  Call(PageService* service, const Queue* on) : service_(service), on_(on) {
    service_->BeginCall();
  }
  virtual ~Call() { service_->EndCall(); }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  void OnCompleted(bool ok) final {
    // The operation may complete on another thread before this one has left gRPC.
    { const std::lock_guard lock(mutex_); }
    Continue(ok);
  }

 protected:
  /// Called when the operation has ended. May delete the object.
  virtual void Continue(bool ok) = 0;

  /// Answers the request. May delete the object.
  void Serve() override {}

  /// Calls Serve() when it is the request's turn. The caller must not use the object afterwards.
  template <typename Request>
  void ServeInTurn(const Request& request) {
    if (!on_->turns) return Serve();
    on_->turns->waiting.Add(VolumeOf(request), BytesOf(request), this);
  }

  /// Calls `operation` with its tag.
  template <typename Operation>
  void Begin(const Operation& operation) {
    const std::lock_guard lock(mutex_);
    operation(on_->threads->Tag(this));
  }

  PageService* const service_;
  const Queue* const on_;

 private:
  std::mutex mutex_;
};

// A bidirectional stream: accept; read, answer and write in turn; finish. Waits for a stream of its
// method, as the calls below. Each one that starts leaves another object waiting.
template <typename Request, typename Response>
class PageService::ServedStream final : public Call {
 public:
  using Stream = grpc::ServerAsyncReaderWriter<Response, Request>;
  using Answer = CallStatus (PageService::*)(const Request&, Response*);
  using Accept = void (Service::*)(grpc::ServerContext*, Stream*, grpc::CompletionQueue*,
                                   grpc::ServerCompletionQueue*, void*);

  ServedStream(PageService* service, const Queue* on, std::type_identity_t<Accept> accept,
               Answer answer)
      : Call(service, on), accept_(accept), answer_(answer), stream_(&context_) {
    Begin([&](void* tag) {
      (service_->service_.*accept_)(&context_, &stream_, on_->queue, on_->queue, tag);
    });
  }

 private:
  enum class Stage { kAccept, kRead, kWrite, kFinish };

  void Continue(bool ok) override {
    switch (stage_) {
      case Stage::kAccept:
        return OnAccepted(ok);
      case Stage::kRead:
        return OnRead(ok);
      case Stage::kWrite:
        return OnWritten(ok);
      case Stage::kFinish:
        return delete this;
    }
  }

  void OnAccepted(bool ok) {
    if (!ok) return delete this;  // the server is stopping
    new ServedStream(service_, on_, accept_, answer_);
    if (!service_->AddStream(&context_)) return Finish(service_->RefuseStream());
    if (on_->turns) ++on_->turns->streams;
    Read();
  }

  void Read() {
    stage_ = Stage::kRead;
    Begin([this](void* tag) { stream_.Read(&request_, tag); });
  }

  void OnRead(bool ok) {
    if (!ok || !service_->SetPhase(&context_, Phase::kBusy)) return End();
    ServeInTurn(request_);
  }

  void Serve() override {
    response_.Clear();
    if ((service_->*answer_)(request_, &response_) == CallStatus::kInvalid) {
      request_ = Request();  // an invalid one may have made it very large
    }
    stage_ = Stage::kWrite;
    Begin([this](void* tag) { stream_.Write(response_, tag); });
  }

  void OnWritten(bool ok) {
    if (!ok || !service_->SetPhase(&context_, Phase::kIdle)) return End();
    Read();
  }

  void End() {
    if (on_->turns) --on_->turns->streams;
    Finish(service_->EndStream(&context_));
  }

  void Finish(const grpc::Status& status) {
    stage_ = Stage::kFinish;
    Begin([&](void* tag) { stream_.Finish(status, tag); });
  }

  const Accept accept_;
  const Answer answer_;
  grpc::ServerContext context_;
  Stream stream_;
  Request request_;
  Response response_;
  Stage stage_ = Stage::kAccept;
};

// A call with one request and one response.
template <typename Request, typename Response>
class PageService::ServedCall final : public Call {
 public:
  using Writer = grpc::ServerAsyncResponseWriter<Response>;
  using Answer = grpc::Status (PageService::*)(const grpc::ServerContext&, const Request&,
                                               Response*);
  using Accept = void (Service::*)(grpc::ServerContext*, Request*, Writer*, grpc::CompletionQueue*,
                                   grpc::ServerCompletionQueue*, void*);

  ServedCall(PageService* service, const Queue* on, std::type_identity_t<Accept> accept,
             Answer answer)
      : Call(service, on), accept_(accept), answer_(answer), writer_(&context_) {
    Begin([&](void* tag) {
      (service_->service_.*accept_)(&context_, &request_, &writer_, on_->queue, on_->queue, tag);
    });
  }

 private:
  void Continue(bool ok) override {
    if (finishing_ || !ok) return delete this;
    new ServedCall(service_, on_, accept_, answer_);
    ServeInTurn(request_);
  }

  void Serve() override {
    Response response;
    const grpc::Status status = (service_->*answer_)(context_, request_, &response);
    finishing_ = true;
    Begin([&](void* tag) { writer_.Finish(response, status, tag); });
  }

  const Accept accept_;
  const Answer answer_;
  grpc::ServerContext context_;
  Request request_;
  Writer writer_;
  bool finishing_ = false;
};

// A call of a method that is not served: of this protocol or of any other.
class PageService::UnservedCall final : public Call {
 public:
  UnservedCall(PageService* service, const Queue* on) : Call(service, on), stream_(&context_) {
    Begin([&](void* tag) {
      service_->unserved_.RequestCall(&context_, &stream_, on_->queue, on_->queue, tag);
    });
  }

 private:
  void Continue(bool ok) override {
    if (finishing_ || !ok) return delete this;
    new UnservedCall(service_, on_);
    finishing_ = true;
    const grpc::Status refused(grpc::StatusCode::UNIMPLEMENTED,
                               context_.method() + " is not served by this memory server");
    Begin([&](void* tag) { stream_.Finish(refused, tag); });
  }

  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter stream_;
  bool finishing_ = false;
};

// Ticks the store's clock on the thread that reads the sockets. Another thread triggers it, since
// gRPC's timers follow the wall clock: they stop when it is set back.
class PageService::Ticker final : public Call {
 public:
  explicit Ticker(PageService* service) : Call(service, &service->gets_) {
    thread_ = StartThread("fs-tick", [this] { Run(); });
  }
  /// Call it after Stop().
  ~Ticker() override { thread_.join(); }

  /// Called when the service stops, with its mutex held.
  void Stop() { changed_.notify_all(); }

 private:
  void Run() {
    std::unique_lock lock(service_->mutex_);
    const auto stopping = [this] { return service_->stopping_; };
    while (!changed_.wait_for(lock, RunningClock::kTickEvery, stopping)) {
      if (std::exchange(under_way_, true)) continue;
      const auto at_once = gpr_inf_past(GPR_CLOCK_MONOTONIC);
      Begin([&](void* tag) { alarm_.Set(on_->queue, at_once, tag); });
    }
    changed_.wait(lock, [this] { return !under_way_; });
  }

  void Continue(bool /*ok*/) override {
    service_->store_->Tick();
    const std::lock_guard lock(service_->mutex_);
    under_way_ = false;
    changed_.notify_all();
  }

  grpc::Alarm alarm_;
  std::condition_variable changed_;  // used with the service's mutex
  bool under_way_ = false;
  std::thread thread_;  // last: uses all of the above
};

}  // namespace farswap::store
