// Damages files of a store that is closed, as a disk does.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace farswap::store {

/// Inverts a byte in each table file where these bytes are; false: they are in none.
inline bool DamageBytes(const std::string& path, const std::string& bytes) {
  bool any = false;
  for (const auto& file : std::filesystem::directory_iterator(path)) {
    if (file.path().extension() != ".sst") continue;
    std::fstream stream(file.path(), std::ios::binary | std::ios::in | std::ios::out);
    const std::string content(std::istreambuf_iterator<char>(stream), {});
    const std::size_t at = content.find(bytes);
    if (at == std::string::npos) continue;
    any = true;
    stream.clear();
    stream.seekp(static_cast<std::streamoff>(at));
    stream.put(static_cast<char>(~content[at]));
  }
  return any;
}

}  // namespace farswap::store
