#include "nbd/kept_connections.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/file_descriptor.h"
#include "nbd/ring_socket.h"

namespace farswap::nbd {

KeptConnections::KeptConnections(ConnectionSet* connections, std::span<const Ring> rings)
    : connections_(*connections) {
  for (const Ring& ring : rings) slots_.push_back({ring, nullptr, false});
}

std::optional<KeptConnections::Place> KeptConnections::Reserve() {
  const std::lock_guard lock(mutex_);
  const auto slot = std::ranges::find(slots_, false, &Slot::in_use);
  if (slot == slots_.end()) return std::nullopt;
  for (const MemoryKind kind : kSurvivingKinds) {
    if (slot->memory) break;
    // A segment would outlive the supervisor, whose sockets do not.
    if (kind == MemoryKind::kSysv) continue;
    auto made = Memory::Create(sizeof(ConnectionState), "nbd connection", kind);
    if (made.ok()) slot->memory = std::move(made.value());
  }
  if (!slot->memory) return std::nullopt;
  ConnectionState::At({slot->memory->data(), slot->memory->bytes()})->serving = false;
  slot->in_use = true;
  std::erase(ended_, static_cast<std::size_t>(slot - slots_.begin()));
  return Place{static_cast<std::size_t>(slot - slots_.begin()), slot->memory->handle()};
}

Result<std::uint64_t> KeptConnections::Begin(std::size_t index, int socket,
                                             std::span<const std::byte> initial,
                                             const std::string& peer) {
  FileDescriptor owned(socket);
  Memory& memory = *slots_.at(index).memory;
  if (initial.size() > ConnectionState::kReceiveBytes) {
    Release(index);
    return Error{"too many bytes after the handshake"};
  }
  ConnectionState* const state = ConnectionState::Begin({memory.data(), memory.bytes()}, initial);
  const std::size_t length = std::min(peer.size(), state->peer.size() - 1);
  std::copy_n(peer.begin(), length, state->peer.begin());
  state->peer[length] = '\0';
  state->layout = ConnectionState::Layout();
  auto ring = MakeSocket(index, state, owned.release());
  if (!ring.ok()) return ring.error();
  // What the ring had of an earlier connection does not count.
  state->stream = {};
  state->serving.store(true, std::memory_order_release);
  return connections_.Serve(state, std::move(ring.value()), peer);
}

Result<std::uint64_t> KeptConnections::Adopt(std::size_t index, const Memory::Handle& handle,
                                             int socket) {
  FileDescriptor owned(socket);
  auto memory = Memory::Adopt(handle);
  if (!memory.ok()) return memory.error();
  if (index >= slots_.size()) return Error{"there is no such place"};
  if (memory.value()->bytes() < sizeof(ConnectionState)) return Error{"its memory is too small"};
  ConnectionState* const state =
      ConnectionState::At({memory.value()->data(), memory.value()->bytes()});
  slots_[index].memory = std::move(memory.value());
  if (!state->serving.load(std::memory_order_acquire)) return Error{"it has not begun, or ended"};
  if (state->layout != ConnectionState::Layout()) return Error{"it is of another version"};
  slots_[index].in_use = true;
  auto ring = MakeSocket(index, state, owned.release());
  if (!ring.ok()) return ring.error();
  return connections_.Serve(state, std::move(ring.value()), state->peer.data());
}

Result<std::unique_ptr<RingSocket>> KeptConnections::MakeSocket(std::size_t index,
                                                                ConnectionState* state,
                                                                int socket) {
  const Ring& ring = slots_[index].ring;
  auto made = RingSocket::Create(socket, ring.descriptor, ring.parameters, &state->stream);
  const auto end = [this, state, index] {
    state->serving = false;
    Release(index);
  };
  if (made.ok()) {
    made.value()->OnEnd(end);
  } else {
    end();
  }
  return made;
}

void KeptConnections::Release(std::size_t index) {
  const std::lock_guard lock(mutex_);
  slots_[index].in_use = false;
  ended_.push_back(index);
}

std::vector<std::size_t> KeptConnections::TakeEnded() {
  const std::lock_guard lock(mutex_);
  return std::exchange(ended_, {});
}

}  // namespace farswap::nbd
