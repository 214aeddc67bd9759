// A connection served on a thread, with its client and its tier, for the tests.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "nbd/connection.h"
#include "nbd_client.h"
#include "nbd_fake_tier.h"

namespace farswap::nbd {

class Server {
 public:
  explicit Server(std::uint64_t slots, std::span<const std::byte> initial = {})
      : tier(slots), export_bytes(slots * tier::kPageBytes) {
    auto created = Connection::Create(&tier, export_bytes, client.server_end(), initial);
    EXPECT_TRUE(created.ok());
    connection_ = std::move(created.value());
    thread_ = std::thread([this] {
      connection_->Run();
      const std::lock_guard lock(mutex_);
      connection_.reset();
    });
  }
  ~Server() {
    client.Leave();
    tier.HoldFetches(false);
    AwaitEnd();
  }

  void AwaitEnd() {
    if (thread_.joinable()) thread_.join();
  }
  // While the client keeps the connection open.
  std::uint64_t errors() {
    const std::lock_guard lock(mutex_);
    return connection_->errors();
  }
  std::string last_refusal() {
    const std::lock_guard lock(mutex_);
    return connection_->last_refusal();
  }
  void Shutdown() {
    const std::lock_guard lock(mutex_);
    connection_->Shutdown();
  }

  FakeTier tier;
  const std::uint64_t export_bytes;
  Client client;

 private:
  std::mutex mutex_;  // guards the end of the connection
  std::unique_ptr<Connection> connection_;
  std::thread thread_;
};

}  // namespace farswap::nbd
