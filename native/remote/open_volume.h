// The messages of OpenVolume: the host's request, and the meaning of a server's answer.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "farswap/v1/page_store.pb.h"
#include "remote/members.h"
#include "remote/session.h"

namespace farswap::remote {

inline constexpr const char* kFencedOff = "fenced: another host daemon took the volume over";

v1::OpenVolumeRequest OpenRequest(const SessionConfig& config);

/// Why this server is unusable for any host; else empty.
std::string ProblemOf(const v1::OpenVolumeResponse& response);

/// The system's reason in gRPC's message about a failed call, without addresses.
std::string ReasonOf(const std::string& message);

/// The server's lease of owners.
std::chrono::milliseconds LeaseOf(const v1::OpenVolumeResponse& response);

/// nullopt if invalid.
std::optional<ServerId> IdOf(const std::string& bytes);

}  // namespace farswap::remote
