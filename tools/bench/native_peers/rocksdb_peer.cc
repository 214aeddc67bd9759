// farswap-rocksdb-peer: what RocksDB alone does with the pages of a corpus, in this process: each
// page compressed by LZ4 beforehand, put in batches of 256 (no fsync, as the page store does), then
// read back in random order and compared. Prints one JSON object.
#include <lz4.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "loadgen/corpus.h"
#include "loadgen/random.h"
#include "loadgen/worker.h"

namespace farswap::bench {
namespace {

constexpr std::size_t kBatchPages = 256;
constexpr std::size_t kKeyBytes = 12;  // volume and slot, as the page store's keys

std::vector<std::string> CompressPages(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<std::string> objects;
  std::vector<char> page(kPageBytes);
  std::vector<char> packed(static_cast<std::size_t>(LZ4_compressBound(kPageBytes)));
  while (file.read(page.data(), kPageBytes)) {
    if (IsRepeatedWord(reinterpret_cast<const std::byte*>(page.data()))) {
      continue;
    }
    const int bytes = LZ4_compress_default(page.data(), packed.data(), kPageBytes,
                                           static_cast<int>(packed.size()));
    const bool raw = static_cast<std::size_t>(bytes) > kPageBytes * 3 / 4;
    objects.emplace_back(raw ? page.data() : packed.data(),
                         raw ? kPageBytes : static_cast<std::size_t>(bytes));
  }
  return objects;
}

std::string KeyOf(std::size_t slot) {
  std::string key(kKeyBytes, '\0');
  for (std::size_t i = 0; i < sizeof(std::uint32_t); ++i) {
    key[kKeyBytes - 1 - i] = static_cast<char>((slot >> (8 * i)) & 0xff);
  }
  return key;
}

rocksdb::Options StoreOptions() {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = std::size_t{64} << 20;
  rocksdb::BlockBasedTableOptions table;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.block_cache = rocksdb::NewLRUCache(std::size_t{256} << 20);
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

int Fail(const std::string& message) {
  std::fprintf(stderr, "farswap-rocksdb-peer: %s\n", message.c_str());
  return 1;
}

int Run(const std::string& corpus, const std::string& path) {
  const std::vector<std::string> objects = CompressPages(corpus);
  if (objects.empty()) {
    return Fail(corpus + " has no page");
  }
  rocksdb::DB* opened = nullptr;
  rocksdb::Status status = rocksdb::DB::Open(StoreOptions(), path, &opened);
  const std::unique_ptr<rocksdb::DB> db(opened);
  const std::uint64_t began_ns = NowNs();
  for (std::size_t first = 0; first < objects.size() && status.ok(); first += kBatchPages) {
    rocksdb::WriteBatch batch;
    for (std::size_t i = first; i < std::min(first + kBatchPages, objects.size()); ++i) {
      batch.Put(KeyOf(i), objects[i]);
    }
    status = db->Write(rocksdb::WriteOptions(), &batch);
  }
  const std::uint64_t written_ns = NowNs();
  Random random(1);
  rocksdb::PinnableSlice value;
  for (std::size_t i = 0; i < objects.size() && status.ok(); ++i) {
    const auto slot = static_cast<std::size_t>(random.Below(objects.size()));
    value.Reset();
    status = db->Get(rocksdb::ReadOptions(), db->DefaultColumnFamily(), KeyOf(slot), &value);
    if (status.ok() && value != rocksdb::Slice(objects[slot])) {
      return Fail("wrong bytes from RocksDB");
    }
  }
  const std::uint64_t read_ns = NowNs();
  if (!status.ok()) {
    return Fail(status.ToString());
  }
  const auto rate = [&](std::uint64_t ns) {
    return static_cast<double>(objects.size()) * 1e9 / static_cast<double>(ns);
  };
  std::printf("{\"pages\":%zu,\"puts_per_s\":%.0f,\"gets_per_s\":%.0f}\n", objects.size(),
              rate(written_ns - began_ns), rate(read_ns - written_ns));
  return 0;
}

}  // namespace
}  // namespace farswap::bench

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: farswap-rocksdb-peer CORPUS DIRECTORY\n", stderr);
    return 2;
  }
  return farswap::bench::Run(argv[1], argv[2]);
}
