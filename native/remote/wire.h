// Translates between the tier's types and the messages of page_store.proto. Answers of memory
// servers are not trusted: the worst result is kCorrupt.
#pragma once

#include <optional>

#include "farswap/v1/page_store.pb.h"
#include "remote/lane.h"
#include "tier/page.h"
#include "tier/remote_store.h"

namespace farswap::remote {

/// Whether the status of a whole call means that the server will serve no other either.
std::optional<VolumeLoss> VolumeLossOf(int stream_status);

/// Appends the page to the batch; its bytes are copied.
void AppendObject(const tier::Object& page, v1::PutRequest* request);

/// The tier's result for a server's status of one object.
tier::PutResult PutResultOf(int status);

struct GotObject {
  tier::GetResult result;
  tier::Object object;  // for kFound; its bytes are those of the message
};

/// Reads one result of a GetResponse that should be about the object `wanted`. Another one, a
/// page's version of more than 32 bits, a codec of the other kind or an impossible length make it
/// kCorrupt.
GotObject ReadResult(const v1::GetResponse::Result& result, tier::ObjectKey wanted);

}  // namespace farswap::remote
