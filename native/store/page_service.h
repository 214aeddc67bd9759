// The gRPC service PageStore over a store::PageStore.
//
// Five completion queues. All sockets belong to the first, whose one thread ("fs-get") also
// answers gets without any hand-over to another thread. It ticks the store's clock too, so that
// time in which no socket was read counts in no lease. A few threads ("fs-put") serve puts and
// discards, which may wait for the disk or for a RocksDB stall. One ("fs-open") serves opens and
// closes, which wait for the disk. One ("fs-session") serves sessions and never waits, so that no
// owner counts as silent meanwhile. One ("fs-copies") begins copies, and sends their progress.
//
// Requests for objects wait in a FairQueue: volumes are served in turn, however many streams their
// hosts have. Opens, closes and heartbeats do not wait with them.
//
// A call is one object, which gives gRPC one operation at a time and deletes itself at its end. A
// stream reads a request, answers it, reads the next; it reuses its messages, so that pages cause
// no allocation. Private to store/ and tests.
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "farswap/v1/page_store.grpc.pb.h"
#include "rpc/completion_threads.h"
#include "store/copies.h"
#include "store/page_store.h"
#include "store/turns.h"

namespace farswap::store {

class PageService {
 public:
  // Limit for all hosts together. More streams are refused with RESOURCE_EXHAUSTED.
  static constexpr std::size_t kStreamsMax = 1536;

  /// A copy ends when its source is silent for `source_silence_max`.
  PageService(PageStore* store, std::map<std::string, std::string> labels,
              std::chrono::milliseconds source_silence_max);
  ~PageService();

  /// Call it before the server is built.
  void Register(grpc::ServerBuilder* builder);
  /// Call it after the server is built.
  void Start();
  /// Of the server, for Describe.
  void SetAdminAddress(const std::string& address);
  /// Ends idle streams and copies at once, and other streams after their request.
  void StopStreams();
  /// Call it after the server's Shutdown(). Returns when no call is left.
  void Drain();

 private:
  class Call;
  template <typename Request, typename Response>
  class ServedStream;
  template <typename Request, typename Response>
  class ServedCall;
  class CopyCall;
  class UnservedCall;
  class Ticker;

  using Service = v1::PageStore::AsyncService;

  struct Queue {
    grpc::ServerCompletionQueue* queue = nullptr;  // owned by the threads
    std::unique_ptr<Turns> turns;                  // none: requests are served as they come
    std::unique_ptr<rpc::CompletionThreads> threads;
  };

  grpc::Status AnswerOpen(const grpc::ServerContext& context, const v1::OpenVolumeRequest& request,
                          v1::OpenVolumeResponse* response);
  grpc::Status AnswerClose(const grpc::ServerContext& context,
                           const v1::CloseVolumeRequest& request,
                           v1::CloseVolumeResponse* response);
  grpc::Status AnswerDiscard(const grpc::ServerContext& context, const v1::DiscardRequest& request,
                             v1::DiscardResponse* response);
  grpc::Status AnswerListShard(const grpc::ServerContext& context,
                               const v1::ListShardRequest& request,
                               v1::ListShardResponse* response);
  grpc::Status AnswerDescribe(const grpc::ServerContext& context,
                              const v1::DescribeRequest& request, v1::DescribeResponse* response);
  CallStatus AnswerSession(const v1::SessionRequest& request, v1::SessionResponse* response);
  CallStatus AnswerPut(const v1::PutRequest& request, v1::PutResponse* response);
  CallStatus AnswerGet(const v1::GetRequest& request, v1::GetResponse* response);

  /// For the host of a volume; 0: for all.
  v1::ServerState State(std::uint64_t volume_id) const;
  bool stopping() const;

  void BeginCall();
  void EndCall();

  enum class Phase { kIdle, kBusy };
  bool AddStream(grpc::ServerContext* context);
  /// Status of a stream that AddStream() did not add.
  grpc::Status RefuseStream();
  /// Status at the end of the stream.
  grpc::Status EndStream(grpc::ServerContext* context);
  /// False if the server is stopping: the caller must not serve the request.
  bool SetPhase(grpc::ServerContext* context, Phase phase);

  PageStore* store_;
  const std::map<std::string, std::string> labels_;
  Service service_;
  grpc::AsyncGenericService unserved_;
  Queue gets_;
  Queue puts_;
  Queue opens_;
  Queue sessions_;
  Queue copies_queue_;
  Copies copies_;
  std::unique_ptr<Ticker> ticker_;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable drained_;
  std::unordered_map<grpc::ServerContext*, Phase> streams_;
  std::size_t calls_ = 0;  // live objects, including those that wait for a call
  bool stopping_ = false;
  std::string admin_address_;
};

}  // namespace farswap::store
