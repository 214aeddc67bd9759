#include "nbd/connection_set.h"

#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/thread.h"

namespace farswap::nbd {

ConnectionSet::ConnectionSet(tier::PageDevice* tier, std::uint64_t export_bytes)
    : tier_(tier), export_bytes_(export_bytes) {
  FARSWAP_CHECK(export_bytes % tier::kPageBytes == 0);
  FARSWAP_CHECK(export_bytes / tier::kPageBytes <= tier->slots());
}

ConnectionSet::~ConnectionSet() { Stop(); }

Result<std::uint64_t> ConnectionSet::Serve(int socket, std::span<const std::byte> initial,
                                           std::string peer) {
  return Start(Connection::Create(tier_, export_bytes_, socket, initial), std::move(peer));
}

Result<std::uint64_t> ConnectionSet::Serve(ConnectionState* state,
                                           std::unique_ptr<StreamSocket> socket, std::string peer) {
  return Start(Connection::Resume(tier_, export_bytes_, state, std::move(socket)), std::move(peer));
}

Result<std::uint64_t> ConnectionSet::Start(Result<std::unique_ptr<Connection>> created,
                                           std::string peer) {
  if (!created.ok()) return created.error();
  std::unique_lock lock(mutex_);
  JoinEnded(lock);
  if (stopping_) return Error{"the device is stopping"};
  const std::uint64_t id = next_id_++;
  Served& served = served_[id];
  served.peer = std::move(peer);
  served.connection = std::move(created.value());
  Connection* const connection = served.connection.get();
  try {
    served.thread = StartThread("fs-nbd-" + std::to_string(id),
                                [this, id, connection] { ServeUntilEnd(id, connection); });
  } catch (const std::system_error& error) {
    served_.erase(id);
    return Error{std::string("failed to start a thread for the connection: ") + error.what()};
  }
  return id;
}

void ConnectionSet::ServeUntilEnd(std::uint64_t id, Connection* connection) {
  connection->Run();
  std::unique_lock lock(mutex_);
  std::unique_ptr<Connection> owned = std::move(served_.at(id).connection);
  lock.unlock();
  owned.reset();  // closes the socket, so not under the lock
  lock.lock();
  const auto at = served_.find(id);
  ended_threads_.push_back(std::move(at->second.thread));
  served_.erase(at);
  ended_.notify_all();
}

void ConnectionSet::JoinEnded(std::unique_lock<std::mutex>& lock) {
  std::vector<std::thread> threads = std::exchange(ended_threads_, {});
  lock.unlock();
  for (std::thread& thread : threads) thread.join();
  lock.lock();
}

std::vector<ConnectionSet::Info> ConnectionSet::List() {
  std::vector<Info> infos;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, served] : served_) {
    if (served.connection == nullptr) continue;
    infos.push_back({id, served.peer, served.connection->requests(), served.connection->errors(),
                     served.connection->last_refusal()});
  }
  return infos;
}

bool ConnectionSet::Close(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  const auto at = served_.find(id);
  if (at == served_.end() || at->second.connection == nullptr) return false;
  at->second.connection->Shutdown();
  return true;
}

void ConnectionSet::CloseAll() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  for (const auto& [id, served] : served_) {
    if (served.connection != nullptr) served.connection->Shutdown();
  }
}

bool ConnectionSet::Wait(std::uint64_t id, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return ended_.wait_for(lock, timeout, [&] { return !served_.contains(id); });
}

void ConnectionSet::Stop() {
  CloseAll();
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [&] { return served_.empty(); });
  JoinEnded(lock);
}

}  // namespace farswap::nbd
