#include "remote/wire.h"

#include <string>

#include "tier/bundle.h"

namespace farswap::remote {

using tier::Codec;
using tier::GetResult;
using tier::PutResult;

static_assert(static_cast<int>(Codec::kRaw) == v1::CODEC_RAW);
static_assert(static_cast<int>(Codec::kLz4) == v1::CODEC_LZ4);
static_assert(static_cast<int>(Codec::kZstd) == v1::CODEC_ZSTD);
static_assert(static_cast<int>(Codec::kBundle) == v1::CODEC_BUNDLE);

std::optional<VolumeLoss> VolumeLossOf(int stream_status) {
  switch (stream_status) {
    case v1::CALL_STATUS_FENCED:
      return VolumeLoss::kFenced;
    case v1::CALL_STATUS_UNKNOWN_VOLUME:
      return VolumeLoss::kUnknownVolume;
    default:
      return std::nullopt;
  }
}

void AppendObject(const tier::Object& page, v1::PutRequest* request) {
  v1::Object* message = request->add_objects();
  message->set_key(page.key);
  message->set_version(page.version);
  message->set_codec(static_cast<v1::Codec>(page.codec));
  message->set_checksum(page.checksum);
  message->set_bytes(page.bytes.data(), page.bytes.size());
  message->set_stored_boot_s(page.stored_boot_s);
}

PutResult PutResultOf(int status) {
  switch (status) {
    case v1::OBJECT_STATUS_OK:
      return PutResult::kAcked;
    case v1::OBJECT_STATUS_SUPERSEDED:
      return PutResult::kSuperseded;
    case v1::OBJECT_STATUS_FULL:
      return PutResult::kServerFull;
    default:
      return PutResult::kRejected;
  }
}

namespace {

bool WellFormed(const v1::Object& page, tier::ObjectKey wanted) {
  const std::size_t bytes = page.bytes().size();
  if (page.key() != wanted || page.has_seal()) return false;  // no key opens it here
  if (tier::IsBundleKey(wanted)) {
    return page.codec() == v1::CODEC_BUNDLE && bytes > 0 && bytes <= tier::kBundleBytesMax;
  }
  switch (page.codec()) {
    case v1::CODEC_RAW:
      if (bytes != tier::kPageBytes) return false;
      break;
    case v1::CODEC_LZ4:
    case v1::CODEC_ZSTD:
      if (bytes == 0 || bytes > tier::kPageBytes) return false;
      break;
    default:
      return false;
  }
  return true;
}

}  // namespace

GotObject ReadResult(const v1::GetResponse::Result& result, tier::ObjectKey wanted) {
  switch (static_cast<int>(result.status())) {
    case v1::OBJECT_STATUS_OK:
      break;
    case v1::OBJECT_STATUS_NOT_FOUND:
      return {GetResult::kNotFound, {}};
    case v1::OBJECT_STATUS_IO_ERROR:
      // The record may be intact, but is not readable now.
      return {GetResult::kUnavailable, {}};
    default:
      return {GetResult::kCorrupt, {}};
  }
  const v1::Object& page = result.object();
  if (!WellFormed(page, wanted)) return {GetResult::kCorrupt, {}};
  const tier::Object object{
      .key = wanted,
      .version = page.version(),
      .codec = static_cast<Codec>(page.codec()),
      .checksum = page.checksum(),
      .stored_boot_s = page.stored_boot_s(),
      .bytes = std::as_bytes(std::span(page.bytes().data(), page.bytes().size())),
  };
  return {GetResult::kFound, object};
}

}  // namespace farswap::remote
