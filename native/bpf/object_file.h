// The compiled slot_words.bpf.c, as a part of this library: there is no file to find at run time.
#pragma once

#include <span>

namespace farswap::bpf {

std::span<const unsigned char> ObjectFile();

}  // namespace farswap::bpf
