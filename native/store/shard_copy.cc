#include "store/shard_copy.h"

#include <algorithm>
#include <array>
#include <utility>

#include "rpc/channel.h"
#include "store/wire.h"
#include "tier/page.h"

namespace farswap::store {
namespace {

constexpr std::size_t kRequestsInFlight = 4;
constexpr std::size_t kAddressBytesMax = 256;

}  // namespace

std::string ReasonOf(CallStatus status) {
  switch (status) {
    case CallStatus::kFenced:
      return "the volume has a newer epoch";
    case CallStatus::kUnknownVolume:
      return "the volume is not open";
    case CallStatus::kRetryAfter:
      return "too many copies are in progress";
    case CallStatus::kStaleGeneration:
      return "a copy of a newer generation of the shard has begun";
    default:
      return "the request exceeds a limit of the protocol";
  }
}

// A call to the source. Watch() and End() cancel it.
class ShardCopy::SourceCall {
 public:
  explicit SourceCall(ShardCopy* copy) : copy_(copy) {
    const std::lock_guard lock(copy_->mutex_);
    copy_->call_ = &context_;
    copy_->waiting_since_ = Clock::now();
    if (copy_->ended_) context_.TryCancel();
  }
  ~SourceCall() {
    const std::lock_guard lock(copy_->mutex_);
    copy_->call_ = nullptr;
    copy_->waiting_since_.reset();
  }
  SourceCall(const SourceCall&) = delete;
  SourceCall& operator=(const SourceCall&) = delete;

  grpc::ClientContext* context() { return &context_; }

  /// The copy waits for the source from now on, or no more.
  void SetWaiting(bool waiting) {
    const std::lock_guard lock(copy_->mutex_);
    copy_->waiting_since_ = waiting ? std::optional(Clock::now()) : std::nullopt;
  }

 private:
  ShardCopy* const copy_;
  grpc::ClientContext context_;
};

ShardCopy::ShardCopy(PageStore* store, const v1::CopyShardRequest& request,
                     std::chrono::milliseconds silence_max, std::function<void()> on_progress)
    : store_(store),
      request_(request),
      copying_{.shard = request.shard(),
               .generation = request.generation(),
               .replace_equal = request.replace_equal()},
      silence_max_(silence_max),
      on_progress_(std::move(on_progress)) {
  progress_.set_status(v1::CALL_STATUS_OK);
}

CallStatus ShardCopy::Check() const {
  const v1::CopyShardRequest::Source& source = request_.source();
  Id uuid;
  const bool valid =
      ReadId(source.server_uuid(), &uuid) && uuid != store_->uuid() && !source.address().empty() &&
      source.address().size() <= kAddressBytesMax &&
      static_cast<std::size_t>(request_.keys_size()) <= kShardObjectsMax &&
      std::ranges::all_of(request_.keys(), [this](std::uint64_t key) { return InShard(key); });
  return valid ? store_->CheckCopy(request_.volume_id(), request_.epoch(), copying_)
               : CallStatus::kInvalid;
}

void ShardCopy::Run() {
  if (!Copy()) return;
  const std::lock_guard lock(mutex_);
  if (std::exchange(ended_, true)) return;
  progress_.set_done(true);
  if (damaged_ > 0) {
    progress_.set_message(std::to_string(damaged_) + " objects are damaged at " +
                          request_.source().address());
  }
}

void ShardCopy::Watch() {
  const CallStatus status = store_->CheckCopy(request_.volume_id(), request_.epoch(), copying_);
  if (status != CallStatus::kOk) End(static_cast<int>(status), ReasonOf(status));
  bool silent = false;
  {
    const std::lock_guard lock(mutex_);
    silent = waiting_since_ && Clock::now() - *waiting_since_ > silence_max_;
  }
  if (silent) FailSource("no answer for " + std::to_string(silence_max_.count()) + " ms");
}

v1::CopyShardResponse ShardCopy::progress() const {
  const std::lock_guard lock(mutex_);
  return progress_;
}

bool ShardCopy::Copy() {
  stub_ = v1::PageStore::NewStub(rpc::NewChannel(request_.source().address(), silence_max_));
  if (!VerifySource()) return false;
  std::vector<std::uint64_t> keys(request_.keys().begin(), request_.keys().end());
  if (keys.empty() && !List(&keys)) return false;
  return keys.empty() || Fetch(keys);
}

bool ShardCopy::VerifySource() {
  v1::DescribeRequest request;
  request.set_cursor(UINT64_MAX);  // no volumes
  v1::DescribeResponse response;
  SourceCall call(this);
  const grpc::Status outcome = stub_->Describe(call.context(), request, &response);
  if (!outcome.ok()) return FailSource("Describe failed: " + outcome.error_message());
  if (!Served("Describe", response.status())) return false;
  if (response.server_uuid() == request_.source().server_uuid()) return true;
  return FailSource("another server has this address");
}

bool ShardCopy::List(std::vector<std::uint64_t>* wanted) {
  v1::ListShardRequest request;
  request.set_volume_id(request_.source().volume_id());
  request.set_epoch(request_.source().epoch());
  request.set_shard(request_.shard());
  do {
    v1::ListShardResponse response;
    {
      SourceCall call(this);
      const grpc::Status outcome = stub_->ListShard(call.context(), request, &response);
      if (!outcome.ok()) return FailSource("ListShard failed: " + outcome.error_message());
    }
    if (!Served("ListShard", response.status(), response.retry_after_ms())) return false;
    if (response.next_cursor() != 0 && response.next_cursor() <= request.cursor()) {
      return FailSource("ListShard goes back");
    }
    if (!AddWanted(response, wanted)) return false;
    request.set_cursor(response.next_cursor());
  } while (request.cursor() != 0);
  return true;
}

// Adds the keys of objects that are missing here, older, or to be replaced.
bool ShardCopy::AddWanted(const v1::ListShardResponse& part, std::vector<std::uint64_t>* wanted) {
  std::vector<std::uint64_t> keys;
  for (const v1::ListShardResponse::Entry& entry : part.entries()) {
    const bool ascends = keys.empty() || entry.key() > keys.back();
    if (!ascends || !InShard(entry.key())) return FailSource("ListShard names a wrong object");
    keys.push_back(entry.key());
  }
  std::vector<std::uint64_t> versions(keys.size());
  const CallStatus status =
      store_->Versions(request_.volume_id(), request_.epoch(), keys, versions);
  if (status != CallStatus::kOk) return End(static_cast<int>(status), ReasonOf(status));
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::uint64_t theirs = part.entries(static_cast<int>(i)).version();
    if (theirs == 0) {
      ++damaged_;
    } else if (versions[i] < theirs || (copying_.replace_equal && versions[i] == theirs)) {
      wanted->push_back(keys[i]);
    }
  }
  const std::lock_guard lock(mutex_);
  progress_.set_listed_objects(progress_.listed_objects() + keys.size());
  return true;
}

// Keeps a few requests in flight. Their answers may come in any order.
bool ShardCopy::Fetch(std::span<const std::uint64_t> keys) {
  SourceCall call(this);
  const auto stream = stub_->Get(call.context());
  std::vector<std::span<const std::uint64_t>> parts;  // by request id; empty: answered
  for (std::size_t i = 0; i < keys.size(); i += kGetKeysMax) {
    parts.push_back(keys.subspan(i, std::min(kGetKeysMax, keys.size() - i)));
  }
  v1::GetRequest request;
  request.set_volume_id(request_.source().volume_id());
  request.set_epoch(request_.source().epoch());
  v1::GetResponse response;
  std::size_t sent = 0;
  bool good = true;
  for (std::size_t answered = 0; good && answered < parts.size(); ++answered) {
    call.SetWaiting(true);
    for (; sent < std::min(answered + kRequestsInFlight, parts.size()); ++sent) {
      request.set_request_id(sent);
      request.mutable_keys()->Assign(parts[sent].begin(), parts[sent].end());
      stream->Write(request);  // if it fails, so does Read()
    }
    if (!stream->Read(&response)) {
      const grpc::Status outcome = stream->Finish();
      return FailSource(outcome.ok() ? "Get ended early"
                                     : "Get failed: " + outcome.error_message());
    }
    call.SetWaiting(false);
    const std::size_t part = response.request_id();
    if (!Served("Get", response.status(), response.retry_after_ms())) {
      good = false;
    } else if (part >= sent ||
               static_cast<std::size_t>(response.results_size()) != parts[part].size()) {
      good = FailSource("Get has a wrong answer");
    } else {
      good = Store(std::exchange(parts[part], {}), response);
    }
  }
  call.context()->TryCancel();  // no more answers are due
  stream->Finish();
  return good;
}

bool ShardCopy::Store(std::span<const std::uint64_t> keys, const v1::GetResponse& response) {
  std::array<ObjectRecord, kGetKeysMax> objects;
  std::array<ObjectStatus, kGetKeysMax> results;
  std::size_t count = 0;
  std::uint64_t found = 0;
  std::uint64_t damaged = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const v1::GetResponse::Result& result = response.results(static_cast<int>(i));
    if (result.status() == v1::OBJECT_STATUS_NOT_FOUND) continue;  // discarded meanwhile
    ++found;
    if (result.status() == v1::OBJECT_STATUS_OK && result.object().key() == keys[i]) {
      objects[count++] = BorrowObject(result.object());
    } else {
      ++damaged;
    }
  }
  ObjectCount written;
  const CallStatus status =
      store_->PutCopies(request_.volume_id(), request_.epoch(), copying_,
                        std::span(objects).first(count), std::span(results).first(count), &written);
  if (status != CallStatus::kOk) return End(static_cast<int>(status), ReasonOf(status));
  return AddStored(std::span(results).first(count), found, damaged, written);
}

bool ShardCopy::AddStored(std::span<const ObjectStatus> results, std::uint64_t found,
                          std::uint64_t damaged, const ObjectCount& written) {
  const auto of = [&](ObjectStatus status) {
    return static_cast<std::uint64_t>(std::ranges::count(results, status));
  };
  damaged_ += damaged + of(ObjectStatus::kInvalid);
  bool report = false;
  {
    const std::lock_guard lock(mutex_);
    const std::uint64_t before = progress_.copied_objects();
    const std::uint64_t after = before + written.objects;
    report = after / kProgressObjects > before / kProgressObjects;
    progress_.set_copied_objects(after);
    progress_.set_copied_bytes(progress_.copied_bytes() + written.bytes);
    if (request_.keys_size() > 0) {
      progress_.set_listed_objects(progress_.listed_objects() + found);
    }
  }
  if (report) on_progress_();
  const bool failed = of(ObjectStatus::kIoError) > 0;
  if (!failed && of(ObjectStatus::kFull) == 0) return true;
  const std::string problem = store_->disk_problem();
  if (!problem.empty()) return End(v1::CALL_STATUS_FULL, problem);
  if (failed) return End(v1::CALL_STATUS_FULL, "the disk failed");
  const bool quota = store_->StateFor(request_.volume_id()) == ServerState::kQuotaReached;
  return End(v1::CALL_STATUS_FULL, quota ? "the volume's quota is reached" : "capacity reached");
}

bool ShardCopy::InShard(std::uint64_t key) const {
  return key <= UINT32_MAX &&
         tier::FirstSlotOf(static_cast<tier::ObjectKey>(key)) / tier::kShardSlots == copying_.shard;
}

bool ShardCopy::Served(const std::string& method, int status, std::uint32_t retry_after_ms) {
  if (status == v1::CALL_STATUS_OK) return true;
  if (status == v1::CALL_STATUS_RETRY_AFTER) {
    return End(status, request_.source().address() + " is busy", retry_after_ms);
  }
  return FailSource(method +
                    " was refused: " + v1::CallStatus_Name(static_cast<v1::CallStatus>(status)));
}

bool ShardCopy::FailSource(const std::string& why) {
  return End(v1::CALL_STATUS_SOURCE_FAILED,
             "failed to copy from " + request_.source().address() + ": " + why);
}

bool ShardCopy::End(int status, const std::string& message, std::uint32_t retry_after_ms) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(ended_, true)) return false;
  progress_.set_status(static_cast<v1::CallStatus>(status));
  progress_.set_message(message);
  progress_.set_retry_after_ms(retry_after_ms);
  if (call_) call_->TryCancel();
  return false;
}

}  // namespace farswap::store
