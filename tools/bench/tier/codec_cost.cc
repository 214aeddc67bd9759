// farswap-codec-cost: what each way of compressing does to the pages of a corpus, with the codec
// that the daemons use: the ratio, and the CPU time. Prints one JSON object of lists:
//   "pages"       one per compressor: store and load of each page by itself
//   "recompress"  one per level: what LZ4 (or nothing) made, made smaller for the memory servers
//   "bundles"       one per level: 16 neighbouring objects as one bundle, as LZ4 left them before
// with "name", "ratio" (bytes of the pages / bytes kept, pages of one repeated word left out),
// "in_us" and "out_us" per page (out_us of a bundle: for all that its fetch yields, per bundle).
// Every page is compared.
#include <time.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "loadgen/corpus.h"
#include "tier/bundle.h"
#include "tier/codec.h"

namespace farswap::bench {
namespace {

using tier::Codec;
using tier::Compressor;

using Page = std::array<std::byte, kPageBytes>;

struct Object {
  std::size_t slot;
  Codec codec;
  std::vector<std::byte> bytes;
};

struct Cost {
  std::string name;
  std::size_t pages = 0;
  std::size_t kept_bytes = 0;
  double in_us = 0;
  double out_us = 0;
};

std::vector<Page> ReadPages(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<Page> pages;
  Page page;
  while (file.read(reinterpret_cast<char*>(page.data()), kPageBytes)) pages.push_back(page);
  return pages;
}

int Fail(const std::string& message) {
  std::fprintf(stderr, "farswap-codec-cost: %s\n", message.c_str());
  return 1;
}

double Us(std::uint64_t ns, std::size_t count) {
  return static_cast<double>(ns) / 1000 / static_cast<double>(count);
}

std::string NameOf(const Compressor& compressor) {
  return (compressor.codec == Codec::kLz4 ? "lz4:" : "zstd:") + std::to_string(compressor.level);
}

/// CPU time of this thread so far: what other processes take does not count.
std::uint64_t CpuNs() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

/// The corpus as one compressor keeps it.
std::vector<Object> Keep(const std::vector<Page>& pages, const Compressor& compressor, Cost* cost) {
  std::vector<Object> objects;
  for (std::size_t slot = 0; slot < pages.size(); ++slot) {
    if (!tier::SameFilled(pages[slot].data())) objects.push_back({slot, Codec::kRaw, {}});
  }
  const std::uint64_t began_ns = CpuNs();
  for (Object& object : objects) {
    const tier::Compressed kept = tier::CompressPage(pages[object.slot].data(), compressor);
    object.codec = kept.codec;
    object.bytes.assign(kept.bytes.begin(), kept.bytes.end());
    cost->kept_bytes += kept.bytes.size();
  }
  cost->name = NameOf(compressor);
  cost->pages = objects.size();
  cost->in_us = Us(CpuNs() - began_ns, objects.size());
  return objects;
}

/// Time to read all of them; 0 if one is not its page.
double ReadBack(const std::vector<Page>& pages, const std::vector<Object>& objects) {
  Page page;
  const std::uint64_t began_ns = CpuNs();
  for (const Object& object : objects) {
    if (!tier::DecompressPage(object.codec, object.bytes, page.data())) return 0;
  }
  const std::uint64_t spent_ns = CpuNs() - began_ns;
  for (const Object& object : objects) {
    tier::DecompressPage(object.codec, object.bytes, page.data());
    if (page != pages[object.slot]) return 0;
  }
  return Us(spent_ns, objects.size());
}

Cost Recompressed(const std::vector<Page>& pages, std::vector<Object> objects, int level) {
  Cost cost{.name = "lz4:1, cold zstd:" + std::to_string(level), .pages = objects.size()};
  const std::uint64_t began_ns = CpuNs();
  for (Object& object : objects) {
    const auto smaller = tier::Recompress(object.codec, object.bytes, level);
    if (smaller) {
      object.codec = smaller->codec;
      object.bytes.assign(smaller->bytes.begin(), smaller->bytes.end());
    }
    cost.kept_bytes += object.bytes.size();
  }
  cost.in_us = Us(CpuNs() - began_ns, objects.size());
  cost.out_us = ReadBack(pages, objects);
  return cost;
}

/// What makes no bundle is kept page by page.
std::vector<std::vector<std::byte>> Pack(const std::vector<Object>& objects, int level,
                                         tier::BundleWriter* writer, Cost* cost) {
  std::vector<std::vector<std::byte>> bundles;
  const std::uint64_t began_ns = CpuNs();
  for (std::size_t begin = 0, end = 0; begin < objects.size(); begin = end) {
    const std::size_t index = objects[begin].slot / tier::kBundleSlots;
    std::size_t apart_bytes = 0;
    writer->Begin();
    for (; end < objects.size() && objects[end].slot / tier::kBundleSlots == index; ++end) {
      const Object& object = objects[end];
      writer->Add(object.slot % tier::kBundleSlots, static_cast<tier::Version>(object.slot),
                  object.codec, object.bytes);
      apart_bytes += object.bytes.size();
    }
    const auto bundle =
        writer->count() > 1 ? writer->Finish(level, apart_bytes) : std::span<const std::byte>();
    cost->kept_bytes += bundle.empty() ? apart_bytes : bundle.size();
    if (!bundle.empty()) bundles.emplace_back(bundle.begin(), bundle.end());
  }
  cost->in_us = Us(CpuNs() - began_ns, objects.size());
  return bundles;
}

std::optional<tier::BundlePages> Unpack(std::span<const std::byte> bundle) {
  const auto view = tier::ParseBundle(bundle);
  return view ? tier::DecompressBundle(*view) : std::nullopt;
}

/// Without pages when one comes back wrong.
Cost Packed(const std::vector<Page>& pages, const std::vector<Object>& objects, int level,
            tier::BundleWriter* writer) {
  Cost cost{.name = "bundles of zstd:" + std::to_string(level), .pages = objects.size()};
  const std::vector<std::vector<std::byte>> bundles = Pack(objects, level, writer, &cost);
  const std::uint64_t began_ns = CpuNs();
  for (const std::vector<std::byte>& bundle : bundles) {
    if (!Unpack(bundle)) return {};
  }
  cost.out_us = Us(CpuNs() - began_ns, std::max<std::size_t>(bundles.size(), 1));
  for (const std::vector<std::byte>& bundle : bundles) {
    const auto view = tier::ParseBundle(bundle);
    const auto back = tier::DecompressBundle(*view);
    for (std::size_t member = 0; member < tier::kBundleSlots; ++member) {
      if (!view->Has(member)) continue;
      // Its version is its slot.
      const Page& page = pages[view->versions[member]];
      if (std::memcmp(back->Page(member), page.data(), kPageBytes) != 0) return {};
    }
  }
  return cost;
}

void Print(const char* name, const std::vector<Cost>& costs, bool last) {
  std::printf("\"%s\":[", name);
  for (std::size_t i = 0; i < costs.size(); ++i) {
    const Cost& cost = costs[i];
    std::printf("%s{\"name\":\"%s\",\"ratio\":%.4f,\"in_us\":%.3f,\"out_us\":%.3f}",
                i > 0 ? "," : "", cost.name.c_str(),
                static_cast<double>(cost.pages * kPageBytes) /
                    static_cast<double>(std::max<std::size_t>(cost.kept_bytes, 1)),
                cost.in_us, cost.out_us);
  }
  std::printf("]%s", last ? "" : ",");
}

int Run(const std::string& corpus) {
  const std::vector<Page> pages = ReadPages(corpus);
  auto writer = tier::BundleWriter::Create();
  if (!writer.ok()) return Fail(writer.error().message);
  std::vector<Cost> alone;
  std::vector<Object> hot;
  for (const Compressor& compressor : {Compressor{Codec::kLz4, 1}, Compressor{Codec::kLz4, 8},
                                       Compressor{Codec::kZstd, 1}, Compressor{Codec::kZstd, 3}}) {
    Cost cost;
    const std::vector<Object> objects = Keep(pages, compressor, &cost);
    if (objects.empty()) return Fail(corpus + " has no page");
    cost.out_us = ReadBack(pages, objects);
    if (cost.out_us == 0) return Fail("wrong bytes from " + cost.name);
    alone.push_back(cost);
    if (hot.empty()) hot = objects;
  }
  std::vector<Cost> recompressed;
  std::vector<Cost> bundles;
  for (const int level : {1, 3}) {
    recompressed.push_back(Recompressed(pages, hot, level));
    if (recompressed.back().out_us == 0) return Fail("wrong bytes after recompression");
    bundles.push_back(Packed(pages, hot, level, writer.value().get()));
    if (bundles.back().pages == 0) return Fail("wrong bytes from a bundle");
  }
  std::printf("{");
  Print("pages", alone, false);
  Print("recompress", recompressed, false);
  Print("bundles", bundles, true);
  std::printf("}\n");
  return 0;
}

}  // namespace
}  // namespace farswap::bench

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: farswap-codec-cost CORPUS\n", stderr);
    return 2;
  }
  return farswap::bench::Run(argv[1]);
}
