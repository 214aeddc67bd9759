// Translates between the store's types and the messages of page_store.proto.
#pragma once

#include <string>

#include "farswap/v1/page_store.pb.h"
#include "store/record.h"

namespace farswap::store {

std::string Bytes(const Id& id);
/// False if it has not the size of an id.
bool ReadId(const std::string& bytes, Id* id);

/// Borrows the message's bytes. The result is not yet valid: see IsValidObject().
ObjectRecord BorrowObject(const v1::Object& object);
void CopyObject(const ObjectRecord& record, v1::Object* object);

}  // namespace farswap::store
