#include "remote/shard_copier.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "base/thread.h"
#include "farswap/v1/page_store.grpc.pb.h"
#include "rpc/channel.h"

namespace farswap::remote {

using placement::Action;
using placement::ActionResult;
using std::chrono::milliseconds;

// In the copier's list while it lives.
class ShardCopier::Call {
 public:
  explicit Call(ShardCopier* copier) : copier_(copier) {
    const std::lock_guard lock(copier_->mutex_);
    copier_->calls_.push_front(this);
    at_ = copier_->calls_.begin();
    if (copier_->stopping_) context_.TryCancel();
  }
  ~Call() {
    const std::lock_guard lock(copier_->mutex_);
    copier_->calls_.erase(at_);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  grpc::ClientContext* context() { return &context_; }
  void NoteAnswer() {
    const std::lock_guard lock(copier_->mutex_);
    answered_at_ = Clock::now();
  }
  /// The copier's lock is held.
  void Cancel() { context_.TryCancel(); }
  bool SilentSince(TimePoint before) const { return answered_at_ < before; }

 private:
  ShardCopier* const copier_;
  grpc::ClientContext context_;
  TimePoint answered_at_ = Clock::now();
  std::list<Call*>::iterator at_;
};

namespace {

constexpr milliseconds kOpenWait{3000};
constexpr int kDiscardItemsMax = 4096;  // of the protocol

/// A piece of work in progress.
class Worker {
 public:
  Worker(ShardCopier* copier, const ShardCopier::Owner* owner, const ShardWork& work)
      : copier_(copier), owner_(*owner), work_(work), member_(StubOf(work.member)) {}

  FinishedWork Do() {
    FinishedWork finished{.action = work_.action, .result = ActionResult::kFailed};
    if (work_.list) {
      if (ListShards(&finished.shards)) finished.result = ActionResult::kDone;
      return finished;
    }
    switch (work_.action.kind) {
      case Action::Kind::kCopy:
        if (work_.sources.empty()) break;
        finished.result = Copy(work_.sources.front(), work_.repairs, &finished);
        break;
      case Action::Kind::kCompare:
        finished.result = Compare(&finished);
        break;
      case Action::Kind::kDrop:
        finished.result = Drop() ? ActionResult::kDone : ActionResult::kFailed;
        break;
      case Action::Kind::kSettle:
        break;
    }
    return finished;
  }

 private:
  using Stub = v1::PageStore::Stub;
  using Wanted = tier::StoredObjects::Wanted;
  using Versions = std::map<std::uint64_t, std::uint64_t>;  // by key

  static std::unique_ptr<Stub> StubOf(const OpenedServer& server) {
    return v1::PageStore::NewStub(rpc::NewChannel(server.address, kOpenWait));
  }
  template <typename Request>
  static Request RequestTo(const OpenedServer& server) {
    Request request;
    request.set_volume_id(server.volume.id);
    request.set_epoch(server.volume.epoch);
    return request;
  }

  // Makes the member fetch these objects from the source, or all that it lacks.
  ActionResult Copy(const OpenedServer& from, const std::vector<std::uint64_t>& keys,
                    FinishedWork* finished) {
    auto request = RequestTo<v1::CopyShardRequest>(work_.member);
    request.set_shard(work_.action.shard);
    request.set_generation(work_.action.generation);
    v1::CopyShardRequest::Source* const source = request.mutable_source();
    source->set_server_uuid(from.uuid.data(), from.uuid.size());
    source->set_address(from.address);
    source->set_volume_id(from.volume.id);
    source->set_epoch(from.volume.epoch);
    for (const std::uint64_t key : keys) request.add_keys(key);
    request.set_replace_equal(!work_.repairs.empty());
    ShardCopier::Call call(copier_);
    const auto answers = member_->CopyShard(call.context(), request);
    v1::CopyShardResponse answer;
    bool done = false;
    while (answers->Read(&answer)) {
      call.NoteAnswer();
      done |= answer.status() == v1::CALL_STATUS_OK && answer.done();
    }
    finished->copied_objects = answer.copied_objects();
    if (answers->Finish().ok() && done) return ActionResult::kDone;
    if (answer.status() != v1::CALL_STATUS_RETRY_AFTER) return ActionResult::kFailed;
    finished->retry_after = milliseconds(answer.retry_after_ms());
    return ActionResult::kLater;
  }

  // Tries one source after the other for objects that the member lacks. Those that none has are
  // lost whether it joins or not.
  ActionResult Compare(FinishedWork* finished) {
    for (std::size_t round = 0;; ++round) {
      const OpenedServer* const source =
          round < work_.sources.size() ? &work_.sources[round] : nullptr;
      const auto missing = FindMissing(source);
      if (!missing) return ActionResult::kFailed;
      if (missing->empty()) return ActionResult::kDone;
      std::vector<std::uint64_t> keys;
      for (const Wanted& object : *missing) keys.push_back(object.key);
      if (!source) {
        for (const Wanted& object : *missing) finished->missing_pages += object.pages;
        return ActionResult::kDone;
      }
      const ActionResult copied = Copy(*source, keys, finished);
      if (copied != ActionResult::kDone) return copied;
    }
  }

  // Objects that the member lacks or has in another version than the table. Nothing is locked
  // meanwhile, so the order matters:
  //
  //   source listed   A bundle that the member has in a lower version is missing. What the source
  //                   got later went to the member as well.
  //   table read      An object that is acknowledged later may be missing in the member's list.
  //   member listed   What is listed here and not wanted afterwards is stale: versions only rise.
  //   table read      An object that is wanted no more, or in another version, was overwritten
  //                   meanwhile: the member gets its Put or Discard as others do.
  std::optional<std::vector<Wanted>> FindMissing(const OpenedServer* source) {
    std::optional<Versions> theirs = Versions{};
    if (source) theirs = List(StubOf(*source).get(), *source);
    const std::vector<Wanted> before = WantedNow();
    const auto there = List(member_.get(), work_.member);
    if (!theirs || !there) return std::nullopt;
    for (const auto& [key, version] : *there) {
      if (key <= UINT32_MAX) work_.objects->OnListed(static_cast<tier::ObjectKey>(key));
    }
    const auto has = [&](const Wanted& object) {
      const auto found = there->find(object.key);
      if (found == there->end()) return false;
      if (!tier::IsBundleKey(object.key)) {
        return tier::SlotVersionOf(found->second) == object.version;
      }
      const auto other = theirs->find(object.key);
      return other == theirs->end() || found->second >= other->second;
    };
    std::vector<Wanted> missing;
    for (const Wanted& object : WantedNow()) {
      const auto earlier = std::ranges::lower_bound(before, object.key, {}, &Wanted::key);
      const bool same = earlier != before.end() && earlier->key == object.key &&
                        earlier->version == object.version;
      if (same && !has(object)) missing.push_back(object);
    }
    return missing;
  }

  std::vector<Wanted> WantedNow() {
    std::vector<Wanted> wanted;
    work_.objects->ListWanted(work_.action.shard * tier::kShardSlots, &wanted);
    return wanted;
  }

  std::optional<Versions> List(Stub* stub, const OpenedServer& server) {
    Versions versions;
    auto request = RequestTo<v1::ListShardRequest>(server);
    request.set_shard(work_.action.shard);
    do {
      v1::ListShardResponse answer;
      ShardCopier::Call call(copier_);
      const grpc::Status status = stub->ListShard(call.context(), request, &answer);
      if (!status.ok() || answer.status() != v1::CALL_STATUS_OK) return std::nullopt;
      for (const auto& entry : answer.entries()) versions[entry.key()] = entry.version();
      request.set_cursor(answer.next_cursor());
    } while (request.cursor() != 0);
    return versions;
  }

  bool ListShards(std::vector<std::uint64_t>* shards) {
    v1::DescribeRequest request;
    do {
      v1::DescribeResponse answer;
      ShardCopier::Call call(copier_);
      const grpc::Status status = member_->Describe(call.context(), request, &answer);
      if (!status.ok() || answer.status() != v1::CALL_STATUS_OK) return false;
      for (const auto& volume : answer.volumes()) {
        if (volume.volume_id() != work_.member.volume.id) continue;
        shards->assign(volume.shards().begin(), volume.shards().end());
        return true;
      }
      request.set_cursor(answer.next_cursor());
    } while (request.cursor() != 0);
    return true;
  }

  // What is put there after the listing has a higher version, and stays. A replica that joined
  // before may have objects of its own in the list, so nothing is dropped then.
  bool Drop() {
    const auto there = List(member_.get(), work_.member);
    if (!there) return false;
    auto request = RequestTo<v1::DiscardRequest>(work_.member);
    const auto discard = [&] {
      if (request.items().empty()) return true;
      if (!owner_.MayDrop(work_.action)) return false;
      v1::DiscardResponse answer;
      ShardCopier::Call call(copier_);
      const grpc::Status status = member_->Discard(call.context(), request, &answer);
      request.clear_items();
      return status.ok() && answer.status() == v1::CALL_STATUS_OK;
    };
    for (const auto& [key, version] : *there) {
      v1::DiscardRequest::Item* const item = request.add_items();
      item->set_key(key);
      item->set_version(version);
      if (request.items_size() == kDiscardItemsMax && !discard()) return false;
    }
    return discard();
  }

  ShardCopier* const copier_;
  const ShardCopier::Owner& owner_;
  const ShardWork& work_;
  const std::unique_ptr<Stub> member_;
};

}  // namespace

ShardCopier::ShardCopier(std::size_t threads, Owner* owner)
    : thread_count_(threads), owner_(owner) {}

ShardCopier::~ShardCopier() { Stop(); }

void ShardCopier::Start() {
  for (std::size_t i = 0; i < thread_count_; ++i) {
    threads_.push_back(StartThread("fs-remote-copy-" + std::to_string(i), [this] { Run(); }));
  }
}

void ShardCopier::Add(ShardWork work) {
  const std::lock_guard lock(mutex_);
  work_.push_back(std::move(work));
  changed_.notify_one();
}

void ShardCopier::CancelSilent(TimePoint before) {
  const std::lock_guard lock(mutex_);
  for (Call* const call : calls_) {
    if (call->SilentSince(before)) call->Cancel();
  }
}

void ShardCopier::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (Call* const call : calls_) call->Cancel();
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void ShardCopier::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !work_.empty(); });
    if (stopping_) return;
    const ShardWork work = std::move(work_.front());
    work_.pop_front();
    lock.unlock();
    owner_->OnWorkDone(Worker(this, owner_, work).Do());
    lock.lock();
  }
}

}  // namespace farswap::remote
