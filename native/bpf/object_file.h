// The compiled slot_words.bpf.c, embedded into this library.
#pragma once

#include <span>

namespace farswap::bpf {

std::span<const unsigned char> ObjectFile();

}  // namespace farswap::bpf
