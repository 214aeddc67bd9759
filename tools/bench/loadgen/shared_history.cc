// SharedHistory: see history.h. Every slot keeps the values it may hold. A clock, raised at every
// Begin() and End(), orders requests: a value is out once a write that began after the value's own
// write had ended has itself ended before the read began. Values that are out for every read in
// flight are dropped.
//
// Locking: one mutex for slots with equal index modulo kLocks; one is held at a time. The clock and
// the workers' oldest starts are sequentially consistent: Begin() announces a lower bound of its
// start before it takes it, and DropBound() reads the clock before the announcements, so a read
// that it does not see starts at the bound or later.
#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <mutex>
#include <set>

#include "loadgen/history.h"

namespace farswap::bench {
namespace {

constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

class SharedHistory final : public History {
 public:
  SharedHistory(std::uint64_t slots, std::uint32_t workers, const Corpus* corpus)
      : corpus_(corpus), values_(slots), flights_(workers) {}

  bool Begin(std::uint32_t worker, Request* request) override;
  void End(std::uint32_t worker, Request* request, std::uint32_t error, const std::byte* bytes,
           Findings* findings) override;
  bool IsRepeated(std::uint64_t /*slot*/) const override { return false; }

 private:
  static constexpr std::size_t kLocks = 1024;
  static constexpr std::size_t kValuesKept = 4;

  struct Value {
    std::uint32_t generation;  // 0: zeros
    std::uint64_t began;
    std::uint64_t ended;
    std::uint64_t replaced;  // when the first write that began after `ended` had ended
  };
  struct Flight {
    std::set<std::uint64_t> starts;  // the worker's own
    std::atomic<std::uint64_t> oldest{kNever};
  };

  std::mutex& LockOf(std::uint64_t slot) { return locks_[slot % kLocks]; }
  std::vector<Value>& ValuesOf(std::uint64_t slot);
  std::uint64_t DropBound();
  void EndWritePage(std::uint64_t slot, const Request& request, std::uint64_t now, bool failed);
  void CheckPage(std::uint64_t slot, const Request& request, const std::byte* page,
                 Findings* findings);

  const Corpus* corpus_;
  std::vector<std::vector<Value>> values_;  // empty: never written
  std::array<std::mutex, kLocks> locks_;
  std::vector<Flight> flights_;
  std::atomic<std::uint64_t> clock_{1};
  std::atomic<std::uint32_t> generation_{1};
};

std::vector<SharedHistory::Value>& SharedHistory::ValuesOf(std::uint64_t slot) {
  std::vector<Value>& values = values_[slot];
  if (values.empty()) {
    values.push_back(Value{0, 0, 0, kNever});
  }
  return values;
}

std::uint64_t SharedHistory::DropBound() {
  std::uint64_t bound = clock_.load();
  for (const Flight& flight : flights_) {
    bound = std::min(bound, flight.oldest.load());
  }
  return bound;
}

bool SharedHistory::Begin(std::uint32_t worker, Request* request) {
  Flight& flight = flights_[worker];
  if (flight.starts.empty()) {
    flight.oldest.store(clock_.load());
  }
  request->started = clock_.fetch_add(1);
  flight.starts.insert(request->started);
  if (request->op == Op::kRead || request->op == Op::kFlush) {
    return true;
  }
  request->generation = request->op == Op::kWrite ? generation_.fetch_add(1) + 1 : 0;
  if (request->op == Op::kWrite) {
    request->buffer.resize(request->length);
    request->payload = request->buffer.data();
  }
  for (std::uint64_t slot = request->first_slot(); slot < request->end_slot(); ++slot) {
    if (request->op == Op::kWrite) {
      corpus_->Copy(slot, request->generation,
                    request->buffer.data() + (slot - request->first_slot()) * kPageBytes);
    }
    const std::lock_guard<std::mutex> guard(LockOf(slot));
    ValuesOf(slot).push_back(Value{request->generation, request->started, kNever, kNever});
  }
  return true;
}

void SharedHistory::EndWritePage(std::uint64_t slot, const Request& request, std::uint64_t now,
                                 bool failed) {
  const std::lock_guard<std::mutex> guard(LockOf(slot));
  std::vector<Value>& values = ValuesOf(slot);
  for (Value& value : values) {
    if (value.began == request.started) {
      value.ended = now;
    } else if (!failed && value.ended < request.started) {
      value.replaced = std::min(value.replaced, now);
    }
  }
  if (failed) {
    values.push_back(Value{0, request.started, now, kNever});
  }
  if (values.size() > kValuesKept) {
    const std::uint64_t bound = DropBound();
    std::erase_if(values, [bound](const Value& value) { return value.replaced < bound; });
  }
}

void SharedHistory::CheckPage(std::uint64_t slot, const Request& request, const std::byte* page,
                              Findings* findings) {
  const std::lock_guard<std::mutex> guard(LockOf(slot));
  const std::vector<Value>& values = ValuesOf(slot);
  const bool right = std::any_of(values.begin(), values.end(), [&](const Value& value) {
    return value.replaced >= request.started && corpus_->Matches(slot, value.generation, page);
  });
  if (right) {
    ++findings->verified_pages;
    return;
  }
  std::string message =
      "slot " + std::to_string(slot) + ": got " + corpus_->Describe(page) + ", may be generation";
  for (const Value& value : values) {
    if (value.replaced >= request.started) {
      message += " " + std::to_string(value.generation);
    }
  }
  findings->AddMismatch(std::move(message));
}

void SharedHistory::End(std::uint32_t worker, Request* request, std::uint32_t error,
                        const std::byte* bytes, Findings* findings) {
  const std::uint64_t now = clock_.fetch_add(1);
  if (request->op != Op::kFlush && (request->op != Op::kRead || error == 0)) {
    for (std::uint64_t slot = request->first_slot(); slot < request->end_slot(); ++slot) {
      if (request->op == Op::kRead) {
        CheckPage(slot, *request, bytes + (slot - request->first_slot()) * kPageBytes, findings);
      } else {
        EndWritePage(slot, *request, now, error != 0);
      }
    }
  }
  Flight& flight = flights_[worker];
  flight.starts.erase(request->started);
  flight.oldest.store(flight.starts.empty() ? kNever : *flight.starts.begin());
}

}  // namespace

std::unique_ptr<History> MakeSharedHistory(std::uint64_t slots, std::uint32_t workers,
                                           const Corpus* corpus) {
  return std::make_unique<SharedHistory>(slots, workers, corpus);
}

}  // namespace farswap::bench
