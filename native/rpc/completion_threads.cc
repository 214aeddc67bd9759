#include "rpc/completion_threads.h"

#include <utility>

#include "base/thread.h"

namespace farswap::rpc {

CompletionThreads::CompletionThreads(std::unique_ptr<grpc::CompletionQueue> queue,
                                     const std::string& name, std::size_t thread_count,
                                     const std::function<void()>& prepare)
    : queue_(std::move(queue)) {
  for (std::size_t i = 0; i < thread_count; ++i) {
    threads_.push_back(StartThread(name, [this, prepare] {
      prepare();
      Run();
    }));
  }
}

void CompletionThreads::Run() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_->Next(&tag, &ok)) {
    [[maybe_unused]] const std::uint64_t started = started_.load(std::memory_order_acquire);
    static_cast<Completion*>(tag)->OnCompleted(ok);
  }
}

CompletionThreads::~CompletionThreads() {
  queue_->Shutdown();
  for (std::thread& thread : threads_) thread.join();
}

}  // namespace farswap::rpc
