// What a host's daemon sets for its cluster, and so for each session.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace farswap::remote {

struct ClusterConfig {
  std::vector<std::string> servers;  // host:port, at most 256, each once; may be empty
  std::string host_id;               // 1..128 bytes
  std::string device;                // 1..128 bytes
  std::array<std::byte, 16> incarnation{};
  std::uint32_t takeover_count = 0;  // how often another process adopted the slot table
  bool take_over = false;            // displace another host that has the volume
  std::uint64_t slots = 0;
  std::size_t replicas = 1;                            // of each page, 1 to 3
  std::string spread = "host";                         // label in which they differ
  std::chrono::milliseconds repair_after{300'000};     // away for longer: replaced
  std::chrono::milliseconds rebalance_every{600'000};  // moves shards to emptier members
  std::chrono::milliseconds fetch_wait{60000};         // deadline of a fetch
  std::chrono::milliseconds put_wait{10000};           // deadline of a batch
  std::chrono::milliseconds open_wait{3000};           // timeout of an attempt to connect
  std::chrono::milliseconds answer_wait{1000};         // of other servers, before opening
  std::chrono::milliseconds close_wait{1000};          // to close the volume, at the end
  std::chrono::milliseconds outage_wait{1000};   // unreachable for longer: gets no more batches
  std::chrono::milliseconds silence_wait{1000};  // of a server whose pages others have too
  std::chrono::milliseconds full_wait{1000};     // pause after a server was full
  std::chrono::milliseconds move_wait{10000};    // silent for longer: may have moved
};

}  // namespace farswap::remote
