#include "nbd/connection_state.h"

#include <algorithm>
#include <memory>
#include <new>

#include "base/check.h"

namespace farswap::nbd {

ConnectionState* ConnectionState::Begin(std::span<std::byte> memory,
                                        std::span<const std::byte> initial) {
  ConnectionState* const state = At(memory);
  FARSWAP_CHECK(initial.size() <= kReceiveBytes);
  state->mutex.Init();
  state->generation.store(0);
  state->stream = {};
  for (Record& record : state->records) std::construct_at(&record);
  state->records[0].end = static_cast<std::uint32_t>(initial.size());
  std::copy(initial.begin(), initial.end(), state->received.begin());
  return state;
}

ConnectionState* ConnectionState::At(std::span<std::byte> memory) {
  FARSWAP_CHECK(memory.size() >= sizeof(ConnectionState));
  FARSWAP_CHECK(reinterpret_cast<std::uintptr_t>(memory.data()) % tier::kPageBytes == 0);
  return reinterpret_cast<ConnectionState*>(memory.data());
}

}  // namespace farswap::nbd
