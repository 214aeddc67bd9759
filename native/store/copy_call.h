// A call of CopyShard in PageService. Private to page_service.cc.
#pragma once

#include <mutex>
#include <optional>

#include "store/served_calls.h"

namespace farswap::store {

// Accepts; writes progress, one message at a time, and drops what comes meanwhile; finishes with
// the last message. A write that fails means that the caller is gone.
class PageService::CopyCall final : public Call, private Copies::Caller {
 public:
  CopyCall(PageService* service, const Queue* on) : Call(service, on), writer_(&context_) {
    Begin([&](void* tag) {
      service_->service_.RequestCopyShard(&context_, &request_, &writer_, on_->queue, on_->queue,
                                          tag);
    });
  }

 private:
  enum class Stage { kAccept, kIdle, kWrite, kFinish };

  void Continue(bool ok) override {
    switch (stage()) {
      case Stage::kAccept:
        return OnAccepted(ok);
      case Stage::kIdle:
      case Stage::kWrite:
        return OnWritten(ok);
      case Stage::kFinish:
        return delete this;
    }
  }

  void OnAccepted(bool ok) {
    if (!ok) return delete this;  // the server is stopping
    new CopyCall(service_, on_);
    if (!service_->AddStream(&context_)) {
      const std::lock_guard lock(state_mutex_);
      return Finish(service_->RefuseStream());
    }
    service_->SetPhase(&context_, Phase::kBusy);
    SetStage(Stage::kIdle);
    if (const auto refusal = service_->copies_.Begin(request_, this)) OnEnd(*refusal);
  }

  void OnProgress(const v1::CopyShardResponse& progress) override {
    const std::lock_guard lock(state_mutex_);
    if (stage_ != Stage::kIdle) return;
    stage_ = Stage::kWrite;
    Begin([&](void* tag) { writer_.Write(progress, tag); });
  }

  void OnEnd(const v1::CopyShardResponse& last) override {
    const std::lock_guard lock(state_mutex_);
    last_ = last;
    if (stage_ == Stage::kIdle) FinishWithLast();
  }

  void OnWritten(bool ok) {
    {
      const std::lock_guard lock(state_mutex_);
      if (last_) return FinishWithLast();
      stage_ = Stage::kIdle;
    }
    if (!ok) service_->copies_.Cancel(this);
  }

  // Call these two with state_mutex_ held.
  void FinishWithLast() {
    const grpc::Status status = service_->EndStream(&context_);
    if (last_->status() == v1::CALL_STATUS_UNSPECIFIED) return Finish(status);
    stage_ = Stage::kFinish;
    Begin([&](void* tag) { writer_.WriteAndFinish(*last_, {}, status, tag); });
  }
  void Finish(const grpc::Status& status) {
    stage_ = Stage::kFinish;
    Begin([&](void* tag) { writer_.Finish(status, tag); });
  }

  Stage stage() {
    const std::lock_guard lock(state_mutex_);
    return stage_;
  }
  void SetStage(Stage stage) {
    const std::lock_guard lock(state_mutex_);
    stage_ = stage;
  }

  grpc::ServerContext context_;
  v1::CopyShardRequest request_;
  grpc::ServerAsyncWriter<v1::CopyShardResponse> writer_;

  std::mutex state_mutex_;  // guards all below; taken before the service's lock
  Stage stage_ = Stage::kAccept;
  std::optional<v1::CopyShardResponse> last_;
};

}  // namespace farswap::store
