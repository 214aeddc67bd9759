#include "store/page_service.h"

#include <array>
#include <mutex>
#include <string>
#include <utility>

namespace farswap::store {
namespace {

// Stores at a time; they wait for RocksDB more than they compute.
constexpr std::size_t kPageThreads = 4;

grpc::Status RefusedOpen(const OpenedVolume& opened) {
  switch (opened.status) {
    case OpenStatus::kInvalid:
      return {grpc::StatusCode::INVALID_ARGUMENT, opened.message};
    case OpenStatus::kRetired:
    case OpenStatus::kTooMany:
      return {grpc::StatusCode::RESOURCE_EXHAUSTED, opened.message};
    case OpenStatus::kIoError:
      return {grpc::StatusCode::INTERNAL, opened.message};
    case OpenStatus::kOk:
      break;
  }
  return grpc::Status::OK;
}

PageRecord BorrowPage(const v1::Page& page) {
  PageRecord record;
  record.slot = page.slot();
  record.version = page.version();
  record.codec = static_cast<std::uint32_t>(page.codec());
  record.checksum = page.checksum();
  record.stored_boot_s = page.stored_boot_s();
  record.bytes = page.data();
  return record;
}

void CopyPage(const PageRecord& record, v1::Page* page) {
  page->set_slot(record.slot);
  page->set_version(record.version);
  page->set_codec(static_cast<v1::Codec>(record.codec));
  page->set_checksum(record.checksum);
  page->set_stored_boot_s(record.stored_boot_s);
  page->set_data(record.bytes.data(), record.bytes.size());
}

// --- Calls --------------------------------------------------------------------------------------

// A call that gives gRPC one operation at a time.
class Call : public rpc::Completion {
 public:
  virtual ~Call() = default;
  void OnCompleted(bool ok) final {
    // The operation may complete on another thread before the one that began it has left gRPC.
    { const std::lock_guard lock(mutex_); }
    Continue(ok);
  }

 protected:
  /// The operation that was begun is over. May destroy the object.
  virtual void Continue(bool ok) = 0;

  template <typename Operation>
  void Begin(const Operation& operation) {
    const std::lock_guard lock(mutex_);
    operation();
  }

 private:
  std::mutex mutex_;
};

}  // namespace

// A bidirectional stream: accepted, then read, answered and written in turn, then finished.
template <typename Request, typename Response>
class PageService::ServedStream final : public Call {
 public:
  using Stream = grpc::ServerAsyncReaderWriter<Response, Request>;
  using Answer = StreamStatus (PageService::*)(const Request&, Response*);
  using Accept = void (v1::PageStore::AsyncService::*)(grpc::ServerContext*, Stream*,
                                                       grpc::CompletionQueue*,
                                                       grpc::ServerCompletionQueue*, void*);

  /// Waits for a stream of this method; each that comes is followed by another that waits.
  static void Await(PageService* service, rpc::CompletionThreads* threads,
                    grpc::ServerCompletionQueue* queue, Accept accept, Answer answer) {
    auto* const stream = new ServedStream(service, threads, queue, accept, answer);
    service->BeginCall();
    stream->Begin([&] {
      (service->service_.*accept)(&stream->context_, &stream->stream_, queue, queue, stream->Tag());
    });
  }

 private:
  void Continue(bool ok) override {
    switch (step_) {
      case Step::kAccept:
        return OnAccepted(ok);
      case Step::kRead:
        return OnRead(ok);
      case Step::kWrite:
        return OnWritten(ok);
      case Step::kFinish:
        return End();
    }
  }

  enum class Step { kAccept, kRead, kWrite, kFinish };

  ServedStream(PageService* service, rpc::CompletionThreads* threads,
               grpc::ServerCompletionQueue* queue, Accept accept, Answer answer)
      : service_(service),
        threads_(threads),
        queue_(queue),
        accept_(accept),
        answer_(answer),
        stream_(&context_) {}

  void* Tag() { return threads_->Tag(this); }

  void OnAccepted(bool ok) {
    if (!ok) return End();  // the server is stopping
    Await(service_, threads_, queue_, accept_, answer_);
    if (service_->AddStream(&context_)) return Read();
    service_->store_->counters().Add(Counter::streams_refused);
    Finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many streams, or the server is stopping"});
  }

  void Read() {
    step_ = Step::kRead;
    Begin([this] { stream_.Read(&request_, Tag()); });
  }

  void OnRead(bool ok) {
    if (!ok || !service_->SetPhase(&context_, Phase::kBusy)) {
      return Finish(service_->EndStream(&context_));
    }
    response_.Clear();
    if ((service_->*answer_)(request_, &response_) == StreamStatus::kInvalid) {
      request_ = Request();  // it may have grown far over what a lawful one takes
    }
    step_ = Step::kWrite;
    Begin([this] { stream_.Write(response_, Tag()); });
  }

  void OnWritten(bool ok) {
    if (!ok || !service_->SetPhase(&context_, Phase::kIdle)) {
      return Finish(service_->EndStream(&context_));
    }
    Read();
  }

  void Finish(const grpc::Status& status) {
    step_ = Step::kFinish;
    Begin([&] { stream_.Finish(status, Tag()); });
  }

  void End() {
    PageService* const service = service_;
    delete this;
    service->EndCall();
  }

  PageService* const service_;
  rpc::CompletionThreads* const threads_;
  grpc::ServerCompletionQueue* const queue_;
  const Accept accept_;
  const Answer answer_;
  grpc::ServerContext context_;
  Stream stream_;
  Request request_;
  Response response_;
  Step step_ = Step::kAccept;
};

// A call with one request and one response.
template <typename Request, typename Response>
class PageService::ServedCall final : public Call {
 public:
  using Writer = grpc::ServerAsyncResponseWriter<Response>;
  using Answer = grpc::Status (PageService::*)(const Request&, Response*);
  using Accept = void (v1::PageStore::AsyncService::*)(grpc::ServerContext*, Request*, Writer*,
                                                       grpc::CompletionQueue*,
                                                       grpc::ServerCompletionQueue*, void*);

  static void Await(PageService* service, Accept accept, Answer answer) {
    auto* const call = new ServedCall(service, accept, answer);
    service->BeginCall();
    call->Begin([&] {
      (service->service_.*accept)(&call->context_, &call->request_, &call->writer_,
                                  service->page_queue_, service->page_queue_, call->Tag());
    });
  }

 private:
  void Continue(bool ok) override {
    if (finishing_ || !ok) {
      PageService* const service = service_;
      delete this;
      service->EndCall();
      return;
    }
    Await(service_, accept_, answer_);
    Response response;
    const grpc::Status status = (service_->*answer_)(request_, &response);
    finishing_ = true;
    Begin([&] { writer_.Finish(response, status, Tag()); });
  }

  ServedCall(PageService* service, Accept accept, Answer answer)
      : service_(service), accept_(accept), answer_(answer), writer_(&context_) {}

  void* Tag() { return service_->page_threads_->Tag(this); }

  PageService* const service_;
  const Accept accept_;
  const Answer answer_;
  grpc::ServerContext context_;
  Request request_;
  Writer writer_;
  bool finishing_ = false;
};

void PageService::Register(grpc::ServerBuilder* builder) {
  auto fetch_queue = builder->AddCompletionQueue();
  auto page_queue = builder->AddCompletionQueue(/*is_frequently_polled=*/false);
  fetch_queue_ = fetch_queue.get();
  page_queue_ = page_queue.get();
  fetch_thread_ = std::make_unique<rpc::CompletionThreads>(std::move(fetch_queue), "fs-fetch", 1);
  page_threads_ =
      std::make_unique<rpc::CompletionThreads>(std::move(page_queue), "fs-pages", kPageThreads);
  builder->RegisterService(&service_);
}

void PageService::Start() {
  using Service = v1::PageStore::AsyncService;
  ServedStream<v1::FetchRequest, v1::FetchResponse>::Await(
      this, fetch_thread_.get(), fetch_queue_, &Service::RequestFetch, &PageService::AnswerFetch);
  ServedStream<v1::StoreRequest, v1::StoreResponse>::Await(
      this, page_threads_.get(), page_queue_, &Service::RequestStore, &PageService::AnswerStore);
  ServedCall<v1::OpenVolumeRequest, v1::OpenVolumeResponse>::Await(
      this, &Service::RequestOpenVolume, &PageService::AnswerOpen);
  ServedCall<v1::CloseVolumeRequest, v1::CloseVolumeResponse>::Await(
      this, &Service::RequestCloseVolume, &PageService::AnswerClose);
  ServedCall<v1::DiscardRequest, v1::DiscardResponse>::Await(this, &Service::RequestDiscard,
                                                             &PageService::AnswerDiscard);
}

void PageService::BeginCall() {
  std::lock_guard lock(mutex_);
  ++calls_;
}

void PageService::EndCall() {
  // Notified under the lock: Drain() may return, and this be destroyed, as soon as it is released.
  std::lock_guard lock(mutex_);
  if (--calls_ == 0) drained_.notify_all();
}

void PageService::Drain() {
  std::unique_lock lock(mutex_);
  drained_.wait(lock, [this] { return calls_ == 0; });
}

// --- Answers ------------------------------------------------------------------------------------

grpc::Status PageService::AnswerOpen(const v1::OpenVolumeRequest& request,
                                     v1::OpenVolumeResponse* response) {
  const OpenedVolume opened = store_->OpenVolume(request.host_id(), request.device(),
                                                 request.incarnation(), request.slots());
  response->set_protocol(kProtocol);
  if (opened.status == OpenStatus::kRetired) {
    response->set_status(v1::OPEN_STATUS_FENCED);
    return grpc::Status::OK;
  }
  if (opened.status != OpenStatus::kOk) {
    return RefusedOpen(opened);
  }
  response->set_status(v1::OPEN_STATUS_OK);
  response->set_volume_id(opened.volume_id);
  response->set_epoch(opened.epoch);
  response->set_capacity_bytes(store_->capacity_bytes());
  response->set_used_bytes(store_->used_bytes());
  response->set_batch_pages_max(kBatchPagesMax);
  return grpc::Status::OK;
}

grpc::Status PageService::AnswerClose(const v1::CloseVolumeRequest& request,
                                      v1::CloseVolumeResponse* response) {
  auto closed = store_->CloseVolume(request.volume_id(), request.epoch());
  if (!closed.ok()) {
    return {grpc::StatusCode::INTERNAL, closed.error().message};
  }
  response->set_status(static_cast<v1::StreamStatus>(closed.value()));
  return grpc::Status::OK;
}

grpc::Status PageService::AnswerDiscard(const v1::DiscardRequest& request,
                                        v1::DiscardResponse* response) {
  std::vector<DiscardItem> items;
  items.reserve(static_cast<std::size_t>(request.items_size()));
  for (const v1::DiscardRequest::Item& item : request.items()) {
    items.push_back({item.slot(), item.version()});
  }
  std::uint64_t discarded = 0;
  auto status = store_->Discard(request.volume_id(), request.epoch(), items, &discarded);
  if (!status.ok()) {
    return {grpc::StatusCode::INTERNAL, status.error().message};
  }
  response->set_status(static_cast<v1::StreamStatus>(status.value()));
  response->set_discarded(discarded);
  return grpc::Status::OK;
}

StreamStatus PageService::AnswerStore(const v1::StoreRequest& request,
                                      v1::StoreResponse* response) {
  std::array<PageRecord, kBatchPagesMax> pages;
  std::array<PageStatus, kBatchPagesMax> results;
  const auto count = static_cast<std::size_t>(request.pages_size());
  StreamStatus status = StreamStatus::kInvalid;
  if (count <= kBatchPagesMax) {
    for (std::size_t i = 0; i < count; ++i) {
      pages[i] = BorrowPage(request.pages(static_cast<int>(i)));
    }
    status = store_->Store(request.volume_id(), request.epoch(), std::span(pages).first(count),
                           std::span(results).first(count));
  } else {
    store_->counters().Add(Counter::invalid_batches);
  }
  response->set_batch_id(request.batch_id());
  response->set_status(static_cast<v1::StreamStatus>(status));
  for (std::size_t i = 0; status == StreamStatus::kOk && i < count; ++i) {
    response->add_results(static_cast<v1::PageStatus>(results[i]));
  }
  response->set_capacity_bytes(store_->capacity_bytes());
  response->set_used_bytes(store_->used_bytes());
  return status;
}

StreamStatus PageService::AnswerFetch(const v1::FetchRequest& request,
                                      v1::FetchResponse* response) {
  const std::span slots(request.slots().data(), static_cast<std::size_t>(request.slots_size()));
  const StreamStatus status = store_->Fetch(
      request.volume_id(), request.epoch(), slots,
      [response](std::size_t /*index*/, PageStatus page_status, const PageRecord& record) {
        v1::FetchResponse::Result* result = response->add_results();
        result->set_status(static_cast<v1::PageStatus>(page_status));
        if (page_status == PageStatus::kOk) {
          CopyPage(record, result->mutable_page());
        }
      });
  response->set_request_id(request.request_id());
  response->set_status(static_cast<v1::StreamStatus>(status));
  return status;
}

// --- Streams under way --------------------------------------------------------------------------

bool PageService::AddStream(grpc::ServerContext* context) {
  std::lock_guard lock(mutex_);
  if (stopping_ || streams_.size() >= kStreamsMax) {
    return false;
  }
  streams_.emplace(context, Phase::kIdle);
  return true;
}

grpc::Status PageService::EndStream(grpc::ServerContext* context) {
  std::lock_guard lock(mutex_);
  streams_.erase(context);
  return stopping_ ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is stopping")
                   : grpc::Status::OK;
}

bool PageService::SetPhase(grpc::ServerContext* context, Phase phase) {
  std::lock_guard lock(mutex_);
  streams_[context] = phase;
  return !stopping_;
}

void PageService::StopStreams() {
  std::lock_guard lock(mutex_);
  stopping_ = true;
  for (const auto& [context, phase] : streams_) {
    if (phase == Phase::kIdle) {
      context->TryCancel();
    }
  }
}

}  // namespace farswap::store
