#include "store/page_service.h"

#include <array>
#include <string>

namespace farswap::store {
namespace {

grpc::Status RefusedOpen(const OpenedVolume& opened) {
  switch (opened.status) {
    case OpenStatus::kInvalid:
      return {grpc::StatusCode::INVALID_ARGUMENT, opened.message};
    case OpenStatus::kRetired:
      return {grpc::StatusCode::FAILED_PRECONDITION, opened.message};
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
  record.stored_unix_s = page.stored_unix_s();
  record.bytes = page.data();
  return record;
}

void CopyPage(const PageRecord& record, v1::Page* page) {
  page->set_slot(record.slot);
  page->set_version(record.version);
  page->set_codec(static_cast<v1::Codec>(record.codec));
  page->set_checksum(record.checksum);
  page->set_stored_unix_s(record.stored_unix_s);
  page->set_data(record.bytes.data(), record.bytes.size());
}

}  // namespace

grpc::Status PageService::OpenVolume(grpc::ServerContext* /*context*/,
                                     const v1::OpenVolumeRequest* request,
                                     v1::OpenVolumeResponse* response) {
  const OpenedVolume opened = store_->OpenVolume(request->host_id(), request->device(),
                                                 request->incarnation(), request->slots());
  if (opened.status != OpenStatus::kOk) {
    return RefusedOpen(opened);
  }
  response->set_volume_id(opened.volume_id);
  response->set_epoch(opened.epoch);
  response->set_capacity_bytes(store_->capacity_bytes());
  response->set_used_bytes(store_->used_bytes());
  response->set_batch_pages_max(kBatchPagesMax);
  return grpc::Status::OK;
}

grpc::Status PageService::CloseVolume(grpc::ServerContext* /*context*/,
                                      const v1::CloseVolumeRequest* request,
                                      v1::CloseVolumeResponse* response) {
  auto closed = store_->CloseVolume(request->volume_id(), request->epoch());
  if (!closed.ok()) {
    return {grpc::StatusCode::INTERNAL, closed.error().message};
  }
  response->set_status(static_cast<v1::StreamStatus>(closed.value()));
  return grpc::Status::OK;
}

grpc::Status PageService::Discard(grpc::ServerContext* /*context*/,
                                  const v1::DiscardRequest* request,
                                  v1::DiscardResponse* response) {
  std::vector<DiscardItem> items;
  items.reserve(static_cast<std::size_t>(request->items_size()));
  for (const v1::DiscardRequest::Item& item : request->items()) {
    items.push_back({item.slot(), item.version()});
  }
  std::uint64_t discarded = 0;
  auto status = store_->Discard(request->volume_id(), request->epoch(), items, &discarded);
  if (!status.ok()) {
    return {grpc::StatusCode::INTERNAL, status.error().message};
  }
  response->set_status(static_cast<v1::StreamStatus>(status.value()));
  response->set_discarded(discarded);
  return grpc::Status::OK;
}

grpc::Status PageService::Store(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<v1::StoreResponse, v1::StoreRequest>* stream) {
  return Serve(context, stream, [this](const auto& request, auto* response) {
    return AnswerStore(request, response);
  });
}

grpc::Status PageService::Fetch(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<v1::FetchResponse, v1::FetchRequest>* stream) {
  return Serve(context, stream, [this](const auto& request, auto* response) {
    return AnswerFetch(request, response);
  });
}

template <typename Request, typename Response, typename Answer>
grpc::Status PageService::Serve(grpc::ServerContext* context,
                                grpc::ServerReaderWriter<Response, Request>* stream,
                                const Answer& answer) {
  if (!AddStream(context)) {
    store_->counters().Add(Counter::streams_refused);
    return {grpc::StatusCode::RESOURCE_EXHAUSTED, "too many streams, or the server is stopping"};
  }
  Request request;
  Response response;
  while (stream->Read(&request) && SetPhase(context, Phase::kBusy)) {
    response.Clear();
    if (answer(request, &response) == StreamStatus::kInvalid) {
      request = Request();  // it may have grown far over what a lawful one takes
    }
    if (!stream->Write(response) || !SetPhase(context, Phase::kIdle)) {
      break;
    }
  }
  return EndStream(context);
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

bool PageService::AddStream(grpc::ServerContext* context) {
  std::lock_guard lock(streams_mutex_);
  if (stopping_ || streams_.size() >= kStreamsMax) {
    return false;
  }
  streams_.emplace(context, Phase::kIdle);
  return true;
}

grpc::Status PageService::EndStream(grpc::ServerContext* context) {
  std::lock_guard lock(streams_mutex_);
  streams_.erase(context);
  return stopping_ ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is stopping")
                   : grpc::Status::OK;
}

bool PageService::SetPhase(grpc::ServerContext* context, Phase phase) {
  std::lock_guard lock(streams_mutex_);
  streams_[context] = phase;
  return !stopping_;
}

void PageService::StopStreams() {
  std::lock_guard lock(streams_mutex_);
  stopping_ = true;
  for (const auto& [context, phase] : streams_) {
    if (phase == Phase::kIdle) {
      context->TryCancel();
    }
  }
}

}  // namespace farswap::store
