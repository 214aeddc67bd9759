// The messages of OpenVolume: what a host says of itself, and what a server's answer means.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "farswap/v1/page_store.pb.h"
#include "remote/members.h"
#include "remote/session.h"

namespace farswap::remote {

inline constexpr const char* kFencedOff = "fenced: another host daemon took the volume over";

v1::OpenVolumeRequest OpenRequest(const WantedVolume& volume);

/// Why this server is of no use to any host; else empty.
std::string ProblemOf(const v1::OpenVolumeResponse& response);

/// How long the server takes a silent owner for alive.
std::chrono::milliseconds LeaseOf(const v1::OpenVolumeResponse& response);

/// Nothing when it is none.
std::optional<ServerId> IdOf(const std::string& bytes);

}  // namespace farswap::remote
