// A connection served on a thread, with its client and its tier, for the tests.
#pragma once

#include <gtest/gtest.h>

#include <memory>
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
  /// Only while the client keeps the connection open.
  Connection& connection() { return *connection_; }

  FakeTier tier;
  const std::uint64_t export_bytes;
  Client client;

 private:
  std::unique_ptr<Connection> connection_;
  std::thread thread_;
};

}  // namespace farswap::nbd
