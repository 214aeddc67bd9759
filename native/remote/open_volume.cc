#include "remote/open_volume.h"

#include <cstring>

#include "base/boot_clock.h"
#include "remote/discard_lane.h"
#include "remote/lane.h"
#include "tier/remote_store.h"

namespace farswap::remote {

namespace {

constexpr std::uint32_t kProtocol = 2;

}  // namespace

v1::OpenVolumeRequest OpenRequest(const SessionConfig& config) {
  const ClusterConfig& cluster = *config.cluster;
  v1::OpenVolumeRequest request;
  request.set_host_id(cluster.host_id);
  request.set_device(cluster.device);
  request.set_host_name(config.host_name);
  request.set_incarnation(cluster.incarnation.data(), cluster.incarnation.size());
  request.set_session_nonce(config.session_nonce.data(), config.session_nonce.size());
  request.set_takeover_count(cluster.takeover_count);
  request.set_slots(cluster.slots);
  request.set_protocol_min(kProtocol);
  request.set_protocol_max(kProtocol);
  request.set_boot_ms(BootMilliseconds());
  return request;
}

std::optional<ServerId> IdOf(const std::string& bytes) {
  ServerId id;
  if (bytes.size() != id.size()) return std::nullopt;
  std::memcpy(id.data(), bytes.data(), id.size());
  return id;
}

std::string ReasonOf(const std::string& message) {
  if (message.find("; last error: ") == std::string::npos) return message;
  return message.substr(message.rfind(": ") + 2);
}

std::chrono::milliseconds LeaseOf(const v1::OpenVolumeResponse& response) {
  if (response.owner_lease_ms() == 0) return OpenedVolume{}.owner_lease;
  return std::chrono::milliseconds(response.owner_lease_ms());
}

std::string ProblemOf(const v1::OpenVolumeResponse& response) {
  switch (static_cast<int>(response.status())) {
    case v1::OPEN_STATUS_OK:
      if (response.put_objects_max() < tier::PutBatch::kObjectsMax ||
          response.get_keys_max() < tier::RemoteFetch::kKeysMax ||
          response.discard_items_max() < DiscardLane::kBatchMax) {
        return "the server takes too few objects in one request: " +
               std::to_string(response.put_objects_max()) + " to put, " +
               std::to_string(response.get_keys_max()) + " to get, " +
               std::to_string(response.discard_items_max()) + " to discard";
      }
      return "";
    case v1::OPEN_STATUS_ALREADY_OPEN:
      return "";
    case v1::OPEN_STATUS_FENCED:
      return response.message().empty() ? kFencedOff : "fenced: " + response.message();
    case v1::OPEN_STATUS_PROTOCOL:
      return "the server has version " + std::to_string(response.protocol()) +
             " of the page protocol, this host has version " + std::to_string(kProtocol) +
             ": update the older of the two";
    default:
      return "the server gave an unknown answer to OpenVolume";
  }
}

}  // namespace farswap::remote
