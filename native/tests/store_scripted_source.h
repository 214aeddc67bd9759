// A source of copies that answers from a map, and runs the test's code before each answer to a Get.
#pragma once

#include <grpcpp/server.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "farswap/v1/page_store.grpc.pb.h"
#include "waiter.h"

namespace farswap::store {

class ScriptedSource final : private v1::PageStore::Service {
 public:
  ScriptedSource();
  ~ScriptedSource() override { Stop(); }

  /// Ends its calls and closes its port. Gets that are held fail.
  void Stop();
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  /// What its copies ask for.
  v1::CopyShardRequest::Source Named() const;
  /// Adds a valid object of version `version`.
  void Add(std::uint64_t key, std::uint64_t version);
  void Remove(std::uint64_t key);
  /// Runs on a thread of the source before each answer to a Get is made.
  void BeforeGet(std::function<void()> run);
  /// These two change answers before they are sent.
  void ChangeGet(std::function<void(v1::GetResponse*)> change);
  void ChangeList(std::function<void(v1::ListShardResponse*)> change);
  /// Answers no Get until the source stops.
  void HoldGets();
  /// How many have arrived.
  int held() const { return held_; }

 private:
  grpc::Status Describe(grpc::ServerContext*, const v1::DescribeRequest*,
                        v1::DescribeResponse*) override;
  grpc::Status ListShard(grpc::ServerContext*, const v1::ListShardRequest*,
                         v1::ListShardResponse*) override;
  grpc::Status Get(grpc::ServerContext*,
                   grpc::ServerReaderWriter<v1::GetResponse, v1::GetRequest>* stream) override;

  void RunBeforeGet();
  v1::GetResponse Find(const v1::GetRequest& request);

  int port_ = 0;
  std::atomic<int> held_{0};
  Waiter<> stopping_;
  std::mutex mutex_;  // guards the next four; also shows sanitizers the order of calls
  std::map<std::uint64_t, v1::Object> objects_;
  std::function<void()> before_get_ = [] {};
  std::function<void(v1::GetResponse*)> change_get_ = [](v1::GetResponse*) {};
  std::function<void(v1::ListShardResponse*)> change_list_ = [](v1::ListShardResponse*) {};
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace farswap::store
