// One bidirectional gRPC stream of a lane: one write at a time, answers as they come, and a
// Shutdown() after which no callback runs.
//
// Life: Start() → BeginWrite()/Send() from any thread, OnAnswer()/OnWritable() from the completion
// thread → the observer's OnLaneBroken() once → Shutdown(), which may also come first, and waits
// for gRPC.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/async_stream.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "remote/lane.h"
#include "remote/wire.h"
#include "rpc/completion_threads.h"

namespace farswap::remote {

template <typename Request, typename Response>
class Stream {
 public:
  using Call = grpc::ClientAsyncReaderWriter<Request, Response>;

  /// The lane that the stream belongs to. Called on the completion thread, with no lock held.
  class Owner {
   public:
    /// Not for an answer whose status means that the volume is lost.
    virtual void OnAnswer(const Response& answer) = 0;
    /// BeginWrite() may succeed again.
    virtual void OnWritable() = 0;

   protected:
    ~Owner() = default;
  };

  /// The observer learns that the stream is broken or the volume lost. It calls Shutdown() on
  /// another thread.
  Stream(Owner* owner, LaneObserver* observer, rpc::CompletionThreads* completions)
      : owner_(owner), observer_(observer), completions_(completions) {}

  /// For the stub's PrepareAsync call.
  grpc::ClientContext* context() { return &context_; }

  void Start(std::unique_ptr<Call> call) {
    call_ = std::move(call);
    call_->StartCall(completions_->Tag(&started_));
  }

  /// The message to fill and Send(), or nullptr during another write, or while the stream is not
  /// up. The caller must send it. May be called with the lane's lock held.
  Request* BeginWrite() {
    const std::lock_guard lock(mutex_);
    if (!up_ || write_ends_ > 0) return nullptr;
    write_ends_ = 2;
    return &request_;
  }

  /// Never blocks on the network. Call it without locks: gRPC may write to the socket here. True:
  /// the write is already finished, without a call of OnWritable().
  bool Send() {
    call_->Write(request_, completions_->Tag(&written_));
    return EndWrite();
  }

  /// Cancels pending operations; returns the reason once no callback runs or will run.
  std::string Shutdown() {
    context_.TryCancel();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return finished_; });
    return status_.error_message();
  }

 private:
  // Tags the completions of the stream's operations.
  struct Operation final : rpc::Completion {
    using Method = void (Stream::*)(bool ok);
    Operation(Stream* operation_stream, Method operation_method)
        : stream(operation_stream), method(operation_method) {}
    void OnCompleted(bool ok) override { (stream->*method)(ok); }
    Stream* stream;
    Method method;
  };

  void OnStarted(bool ok) {
    if (!ok) {
      Break();
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      up_ = true;
    }
    call_->Read(&answer_, completions_->Tag(&read_));
    owner_->OnWritable();
  }

  void OnRead(bool ok) {
    if (!ok) {
      Break();
      return;
    }
    if (const auto loss = VolumeLossOf(answer_.status())) {
      observer_->OnVolumeLost(*loss);
    } else {
      owner_->OnAnswer(answer_);
    }
    call_->Read(&answer_, completions_->Tag(&read_));
  }

  // A write that failed is followed by a read that fails, which ends the stream.
  void OnWritten(bool ok) {
    if (EndWrite() && ok) owner_->OnWritable();
  }

  // A write is over when Send() has returned from gRPC and its completion was delivered, in any
  // order. True, for the later one, if the next write may begin.
  bool EndWrite() {
    const std::lock_guard lock(mutex_);
    --write_ends_;
    FinishIfIdle();
    return write_ends_ == 0 && up_;
  }

  // No read is pending any more.
  void Break() {
    observer_->OnLaneBroken();
    const std::lock_guard lock(mutex_);
    up_ = false;
    broken_ = true;
    FinishIfIdle();
  }

  // With mutex_ held, so that Shutdown() cannot return during this call of gRPC.
  void FinishIfIdle() {
    if (broken_ && write_ends_ == 0) call_->Finish(&status_, completions_->Tag(&finish_));
  }

  void OnFinished(bool) {
    const std::lock_guard lock(mutex_);
    finished_ = true;
    changed_.notify_all();
  }

  Owner* const owner_;
  LaneObserver* const observer_;
  rpc::CompletionThreads* const completions_;
  grpc::ClientContext context_;
  std::unique_ptr<Call> call_;
  Request request_;
  Response answer_;
  grpc::Status status_;
  Operation started_{this, &Stream::OnStarted};
  Operation read_{this, &Stream::OnRead};
  Operation written_{this, &Stream::OnWritten};
  Operation finish_{this, &Stream::OnFinished};

  // Leaf lock: taken with a lane's lock held (BeginWrite), never the other way round.
  std::mutex mutex_;
  std::condition_variable changed_;
  bool up_ = false;  // between OnStarted() and Break()
  bool broken_ = false;
  bool finished_ = false;
  int write_ends_ = 0;  // calls of EndWrite() that the current write waits for
};

}  // namespace farswap::remote
