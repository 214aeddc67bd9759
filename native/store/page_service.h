// The gRPC service PageStore over a store::PageStore.
//
// Two completion queues. All sockets belong to the first, whose one thread ("fs-fetch") also
// answers fetches, from the bytes' arrival to the reply's departure without waking anybody. The
// second has a few threads ("fs-pages") for stores and the short calls, which may wait for the disk
// and for RocksDB when it stalls writers; they hold up no fetch.
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
  static constexpr std::size_t kStreamsMax = 1024;

  explicit PageService(PageStore* store) : store_(store) {}

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

  grpc::Status AnswerOpen(const v1::OpenVolumeRequest& request, v1::OpenVolumeResponse* response);
  grpc::Status AnswerClose(const v1::CloseVolumeRequest& request,
                           v1::CloseVolumeResponse* response);
  grpc::Status AnswerDiscard(const v1::DiscardRequest& request, v1::DiscardResponse* response);
  StreamStatus AnswerStore(const v1::StoreRequest& request, v1::StoreResponse* response);
  StreamStatus AnswerFetch(const v1::FetchRequest& request, v1::FetchResponse* response);

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
  grpc::ServerCompletionQueue* fetch_queue_ = nullptr;  // owned by the threads below
  grpc::ServerCompletionQueue* page_queue_ = nullptr;
  std::unique_ptr<rpc::CompletionThreads> fetch_thread_;
  std::unique_ptr<rpc::CompletionThreads> page_threads_;

  std::mutex mutex_;  // guards all below
  std::condition_variable drained_;
  std::unordered_map<grpc::ServerContext*, Phase> streams_;
  std::size_t calls_ = 0;  // objects alive, those that wait for a call included
  bool stopping_ = false;
};

}  // namespace farswap::store
