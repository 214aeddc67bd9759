// The gRPC service PageStore over a store::PageStore, on gRPC's synchronous API: each stream has a
// thread of its own, so a Store stream that RocksDB makes wait holds up no Fetch.
//
// A stream reads a request, answers it, reads the next. Its message objects live as long as it
// does, so the steady state allocates nothing per page. Private to store/, tests and benchmarks.
#pragma once

#include <cstddef>
#include <mutex>
#include <unordered_map>

#include "farswap/v1/page_store.grpc.pb.h"
#include "store/page_store.h"

namespace farswap::store {

class PageService final : public v1::PageStore::Service {
 public:
  // Of all hosts. More are refused with RESOURCE_EXHAUSTED.
  static constexpr std::size_t kStreamsMax = 1024;

  explicit PageService(PageStore* store) : store_(store) {}

  /// Ends idle streams at once and the others after the request under way.
  void StopStreams();

  grpc::Status OpenVolume(grpc::ServerContext* context, const v1::OpenVolumeRequest* request,
                          v1::OpenVolumeResponse* response) override;
  grpc::Status CloseVolume(grpc::ServerContext* context, const v1::CloseVolumeRequest* request,
                           v1::CloseVolumeResponse* response) override;
  grpc::Status Discard(grpc::ServerContext* context, const v1::DiscardRequest* request,
                       v1::DiscardResponse* response) override;
  grpc::Status Store(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::StoreResponse, v1::StoreRequest>* stream) override;
  grpc::Status Fetch(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::FetchResponse, v1::FetchRequest>* stream) override;

 private:
  template <typename Request, typename Response, typename Answer>
  grpc::Status Serve(grpc::ServerContext* context,
                     grpc::ServerReaderWriter<Response, Request>* stream, const Answer& answer);
  StreamStatus AnswerStore(const v1::StoreRequest& request, v1::StoreResponse* response);
  StreamStatus AnswerFetch(const v1::FetchRequest& request, v1::FetchResponse* response);

  enum class Phase { kIdle, kBusy };
  bool AddStream(grpc::ServerContext* context);
  /// The status that the stream ends with.
  grpc::Status EndStream(grpc::ServerContext* context);
  /// False when the server is stopping: the request is not to be served.
  bool SetPhase(grpc::ServerContext* context, Phase phase);

  PageStore* store_;
  std::mutex streams_mutex_;
  std::unordered_map<grpc::ServerContext*, Phase> streams_;
  bool stopping_ = false;
};

}  // namespace farswap::store
