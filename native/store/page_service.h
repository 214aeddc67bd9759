// The gRPC service PageStore over a store::PageStore.
//
// Four completion queues. All sockets belong to the first, whose one thread ("fs-get") also
// answers fetches, from the bytes' arrival to the reply's departure without waking anybody. It also
// ticks the store's clock, so that the time in which no socket was read counts in no lease. The
// second has a few threads ("fs-put") for stores and discards, which may wait for the disk and
// for RocksDB when it stalls writers. Opens and closes wait for the disk on a thread of their own
// ("fs-open"); and so that no owner counts as silent meanwhile, sessions have one that waits for
// nothing ("fs-session").
//
// A call is one object, which gives gRPC one operation at a time and destroys itself when it is
// over. A stream reads a request, answers it, reads the next; its message objects live as long as
// it does, so the steady state allocates nothing per page. Private to store/ and tests.
#pragma once

#include <grpcpp/server_builder.h>

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "farswap/v1/page_store.grpc.pb.h"
#include "rpc/completion_threads.h"
#include "store/page_store.h"

namespace farswap::store {

class PageService {
 public:
  // Of all hosts. More are refused with RESOURCE_EXHAUSTED.
  static constexpr std::size_t kStreamsMax = 1536;

  explicit PageService(PageStore* store);
  ~PageService();

  /// Before the server is built.
  void Register(grpc::ServerBuilder* builder);
  /// Once it is.
  void Start();
  /// Ends idle streams at once and the others after the request under way.
  void StopStreams();
  /// After the server's Shutdown(): returns when no call is left.
  void Drain();

 private:
  template <typename Request, typename Response>
  class ServedStream;
  template <typename Request, typename Response>
  class ServedCall;
  class Ticker;

  struct Queue {
    grpc::ServerCompletionQueue* queue = nullptr;  // owned by the threads
    std::unique_ptr<rpc::CompletionThreads> threads;
  };

  grpc::Status AnswerOpen(const grpc::ServerContext& context, const v1::OpenVolumeRequest& request,
                          v1::OpenVolumeResponse* response);
  grpc::Status AnswerClose(const grpc::ServerContext& context,
                           const v1::CloseVolumeRequest& request,
                           v1::CloseVolumeResponse* response);
  grpc::Status AnswerDiscard(const grpc::ServerContext& context, const v1::DiscardRequest& request,
                             v1::DiscardResponse* response);
  CallStatus AnswerSession(const v1::SessionRequest& request, v1::SessionResponse* response);
  CallStatus AnswerPut(const v1::PutRequest& request, v1::PutResponse* response);
  CallStatus AnswerGet(const v1::GetRequest& request, v1::GetResponse* response);

  v1::ServerState State() const;
  bool stopping() const;

  void BeginCall();
  void EndCall();

  enum class Phase { kIdle, kBusy };
  bool AddStream(grpc::ServerContext* context);
  /// The status that the stream ends with.
  grpc::Status EndStream(grpc::ServerContext* context);
  /// False when the server is stopping: the request is not to be served.
  bool SetPhase(grpc::ServerContext* context, Phase phase);

  PageStore* store_;
  v1::PageStore::AsyncService service_;
  Queue gets_;
  Queue puts_;
  Queue opens_;
  Queue sessions_;
  std::unique_ptr<Ticker> ticker_;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable drained_;
  std::unordered_map<grpc::ServerContext*, Phase> streams_;
  std::size_t calls_ = 0;  // objects alive, those that wait for a call included
  bool stopping_ = false;
};

}  // namespace farswap::store
