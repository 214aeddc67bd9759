// One bidirectional gRPC stream, as its lane sees it: one write at a time, answers as they come,
// and a Shutdown() after which nothing of it runs any more.
//
// Life: Start() → BeginWrite()/Send() from any thread, OnAnswer()/OnWritable() from gRPC's threads
// → OnBroken() once → Shutdown(), which may also come first, and waits for gRPC to let go.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <condition_variable>
#include <mutex>
#include <string>

namespace farswap::remote {

template <typename Request, typename Response>
class Stream final : public grpc::ClientBidiReactor<Request, Response> {
 public:
  /// The lane that the stream belongs to. Called on gRPC's threads, with no lock of the stream
  /// held.
  class Owner {
   public:
    virtual void OnAnswer(const Response& answer) = 0;
    /// A write is finished: BeginWrite() may succeed again.
    virtual void OnWritable() = 0;
    /// The stream is of no use any more. Must lead to Shutdown(), on another thread.
    virtual void OnBroken() = 0;

   protected:
    ~Owner() = default;
  };

  explicit Stream(Owner* owner) : owner_(owner) {}

  /// What the stub's async()->Method(context(), stream) has to be called with before Start().
  grpc::ClientContext* context() { return &context_; }

  void Start() {
    // Writes begin outside of gRPC's callbacks, so gRPC must not finish the stream under them.
    this->AddHold();
    this->StartRead(&answer_);
    this->StartCall();
  }

  /// The message to fill and Send(), or nullptr while another write is under way or the stream is
  /// broken. Whoever gets it must send it. May be called with the lane's lock held.
  Request* BeginWrite() {
    const std::lock_guard lock(mutex_);
    if (writing_ || broken_) return nullptr;
    writing_ = true;
    return &request_;
  }

  /// Never blocks on the network. Call it without locks: gRPC may do the socket write here.
  void Send() { this->StartWrite(&request_); }

  /// Cancels what is left and returns, with the reason, once no callback runs or will run.
  std::string Shutdown() {
    context_.TryCancel();
    std::unique_lock lock(mutex_);
    done_changed_.wait(lock, [this] { return done_; });
    return status_.error_message();
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      Break();
      return;
    }
    owner_->OnAnswer(answer_);
    this->StartRead(&answer_);
  }

  void OnWriteDone(bool ok) override {
    {
      const std::lock_guard lock(mutex_);
      writing_ = false;
    }
    if (ok) {
      owner_->OnWritable();
    }
    ok ? ReleaseHoldIfBroken() : Break();
  }

  void OnDone(const grpc::Status& status) override {
    const std::lock_guard lock(mutex_);
    status_ = status;
    done_ = true;
    done_changed_.notify_all();
  }

  void Break() {
    bool first = false;
    {
      const std::lock_guard lock(mutex_);
      first = !broken_;
      broken_ = true;
    }
    if (first) owner_->OnBroken();
    ReleaseHoldIfBroken();
  }

  // Every StartWrite() is followed by OnWriteDone(), so the hold may go when none is under way.
  void ReleaseHoldIfBroken() {
    {
      const std::lock_guard lock(mutex_);
      if (!broken_ || writing_ || released_) return;
      released_ = true;
    }
    this->RemoveHold();
  }

  Owner* const owner_;
  grpc::ClientContext context_;
  Request request_;
  Response answer_;

  // Leaf lock: taken with a lane's lock held (BeginWrite), never the other way round.
  std::mutex mutex_;
  std::condition_variable done_changed_;
  bool writing_ = false;
  bool broken_ = false;
  bool released_ = false;
  bool done_ = false;
  grpc::Status status_;
};

}  // namespace farswap::remote
