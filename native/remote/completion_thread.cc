#include "remote/completion_thread.h"

#include "base/thread.h"

namespace farswap::remote {

CompletionThread::CompletionThread() {
  thread_ = StartThread("fs-remote-grpc", [this] {
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) Completion::Complete(tag, ok);
  });
}

CompletionThread::~CompletionThread() {
  queue_.Shutdown();
  thread_.join();
}

}  // namespace farswap::remote
