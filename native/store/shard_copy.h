// A copy of a shard, or of some of its objects, from another server (the source) to this one.
//
// Run() is the whole copy: it verifies the source's uuid, lists its objects of the shard, gets
// those that are missing here or older, and stores them as a Put does, so that versions decide
// every race. An object that its host discards meanwhile may come back: the host compares the shard
// afterwards.
//
// Run() uses blocking calls of gRPC without deadlines, since gRPC's timers follow the wall clock.
// Another thread calls Watch() a few times a second, which ends the copy, and cancels its call, if
// the source is silent, the volume is gone, or a copy of a newer generation has begun.
#pragma once

#include <grpcpp/client_context.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "farswap/v1/page_store.grpc.pb.h"
#include "store/page_store.h"

namespace farswap::store {

/// Why a copy ended or was refused, for operators.
std::string ReasonOf(CallStatus status);

class ShardCopy {
 public:
  /// `on_progress` is called by Run() at least every kProgressObjects copied objects.
  static constexpr std::uint64_t kProgressObjects = 256;

  ShardCopy(PageStore* store, const v1::CopyShardRequest& request,
            std::chrono::milliseconds silence_max, std::function<void()> on_progress);

  /// Whether the copy may run. kInvalid: the request has bad ids, sizes or keys.
  CallStatus Check() const;

  void Run();

  // On any thread:

  void Watch();
  /// Ends the copy without an answer.
  void Cancel() { End(v1::CALL_STATUS_UNSPECIFIED, ""); }
  /// The answer so far. After Run(): the last one; its status is unspecified after Cancel().
  v1::CopyShardResponse progress() const;

 private:
  using Clock = std::chrono::steady_clock;
  class SourceCall;

  bool Copy();
  bool VerifySource();
  bool List(std::vector<std::uint64_t>* wanted);
  bool AddWanted(const v1::ListShardResponse& part, std::vector<std::uint64_t>* wanted);
  bool Fetch(std::span<const std::uint64_t> keys);
  bool Store(std::span<const std::uint64_t> keys, const v1::GetResponse& response);
  bool AddStored(std::span<const ObjectStatus> results, std::uint64_t found, std::uint64_t damaged,
                 const ObjectCount& written);

  bool InShard(std::uint64_t key) const;
  /// Whether the source has served a call; if not, ends the copy.
  bool Served(const std::string& method, int status, std::uint32_t retry_after_ms = 0);
  /// These two return false. Only the first end counts.
  bool FailSource(const std::string& why);
  bool End(int status, const std::string& message, std::uint32_t retry_after_ms = 0);

  PageStore* const store_;
  const v1::CopyShardRequest request_;
  const ShardCopying copying_;
  const std::chrono::milliseconds silence_max_;
  const std::function<void()> on_progress_;
  std::unique_ptr<v1::PageStore::Stub> stub_;  // only in Run()
  std::uint64_t damaged_ = 0;                  // only in Run()

  mutable std::mutex mutex_;  // guards all below; a leaf but for gRPC's locks
  bool ended_ = false;
  v1::CopyShardResponse progress_;
  grpc::ClientContext* call_ = nullptr;             // under way
  std::optional<Clock::time_point> waiting_since_;  // for the source
};

}  // namespace farswap::store
