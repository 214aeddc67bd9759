// The backlog of a completion queue whose requests are served in turn.
#pragma once

#include <atomic>
#include <cstddef>

#include "rpc/completion_threads.h"
#include "store/fair_queue.h"

namespace farswap::store {

struct Turns final : rpc::Backlog {
  bool empty() const override { return waiting.empty(); }
  /// Costs a look at the sockets for each request, which the stream of a single host is spared.
  bool gathers() const override { return streams.load(std::memory_order_relaxed) > 1; }
  void Work() override {
    if (FairQueue::Job* const job = waiting.Take()) job->Serve();
  }

  FairQueue waiting;
  std::atomic<std::size_t> streams{0};
};

}  // namespace farswap::store
