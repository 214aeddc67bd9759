#include "remote/completion_thread.h"

#include "base/thread.h"

namespace farswap::remote {

CompletionThread::CompletionThread() {
  thread_ = StartThread("fs-remote-grpc", [this] { Run(); });
}

void CompletionThread::Run() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
    [[maybe_unused]] const std::uint64_t started = started_.load(std::memory_order_acquire);
    static_cast<Completion*>(tag)->OnCompleted(ok);
  }
}

CompletionThread::~CompletionThread() {
  queue_.Shutdown();
  thread_.join();
}

}  // namespace farswap::remote
