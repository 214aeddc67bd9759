#include "store/copies.h"

#include <algorithm>
#include <utility>

#include "base/thread.h"

namespace farswap::store {
namespace {

constexpr std::chrono::milliseconds kWatchEvery{100};
constexpr std::uint32_t kRetryAfterMs = 500;

}  // namespace

Copies::Copies(PageStore* store, std::chrono::milliseconds silence_max)
    : store_(store), silence_max_(silence_max) {
  for (std::thread& worker : workers_) {
    worker = StartThread("fs-copy", [this] { Work(); });
  }
  watcher_ = StartThread("fs-copy-watch", [this] { Watch(); });
}

Copies::~Copies() {
  Stop();
  for (std::thread& worker : workers_) worker.join();
  watcher_.join();
}

std::optional<v1::CopyShardResponse> Copies::Begin(const v1::CopyShardRequest& request,
                                                   Caller* caller) {
  auto job = std::make_unique<Job>();
  job->caller = caller;
  job->copy = std::make_unique<ShardCopy>(store_, request, silence_max_,
                                          [this, started = job.get()] { Report(started); });
  CallStatus status = job->copy->Check();
  if (status == CallStatus::kOk) {
    const std::lock_guard lock(mutex_);
    if (running_.size() < kCopiesMax && !stopping_) {
      store_->counters().Add(Counter::copies);
      begun_.push_back(job.get());
      running_.push_back(std::move(job));
      changed_.notify_all();
      return std::nullopt;
    }
    status = CallStatus::kRetryAfter;
  }
  store_->CountRefused(status);
  v1::CopyShardResponse refusal;
  refusal.set_status(static_cast<v1::CallStatus>(status));
  refusal.set_message(ReasonOf(status));
  if (status == CallStatus::kRetryAfter) refusal.set_retry_after_ms(kRetryAfterMs);
  return refusal;
}

void Copies::Cancel(const Caller* caller) {
  const std::lock_guard lock(mutex_);
  for (const auto& job : running_) {
    if (job->caller == caller) job->copy->Cancel();
  }
}

void Copies::Stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  for (const auto& job : running_) job->copy->Cancel();
  changed_.notify_all();
}

void Copies::Work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !begun_.empty(); });
    if (begun_.empty()) return;
    Job* const job = begun_.front();
    begun_.pop_front();
    lock.unlock();
    job->copy->Run();
    const v1::CopyShardResponse last = job->copy->progress();
    if (!last.done()) store_->counters().Add(Counter::copies_failed);
    lock.lock();
    const auto own = std::ranges::find(running_, job, &std::unique_ptr<Job>::get);
    const std::unique_ptr<Job> ended = std::move(*own);
    running_.erase(own);
    lock.unlock();
    ended->caller->OnEnd(last);
    lock.lock();
  }
}

void Copies::Watch() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (running_.empty()) {
      changed_.wait(lock);
    } else {
      changed_.wait_for(lock, kWatchEvery);
    }
    for (const auto& job : running_) {
      job->copy->Watch();
      job->caller->OnProgress(job->copy->progress());
    }
  }
}

void Copies::Report(const Job* job) {
  const std::lock_guard lock(mutex_);
  job->caller->OnProgress(job->copy->progress());
}

}  // namespace farswap::store
