// ExclusiveHistory: see history.h. No locks: every slot belongs to one worker, and stripes of 64
// slots keep the workers' entries of the arrays apart.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "loadgen/history.h"

namespace farswap::bench {

void Findings::AddMismatch(std::string message) {
  ++mismatched_pages;
  if (messages.size() < kMessagesMax) {
    messages.push_back(std::move(message));
  }
}

namespace {

class ExclusiveHistory final : public History {
 public:
  ExclusiveHistory(std::byte* shadow, std::uint64_t slots, const Corpus* corpus)
      : shadow_(shadow), slots_(slots), corpus_(corpus), generations_(slots), slot_flags_(slots) {}
  ~ExclusiveHistory() override { munmap(shadow_, slots_ * kPageBytes); }

  bool Begin(std::uint32_t worker, Request* request) override;
  void End(std::uint32_t worker, Request* request, std::uint32_t error, const std::byte* bytes,
           Findings* findings) override;
  bool IsRepeated(std::uint64_t slot) const override {
    return IsRepeatedWord(shadow_ + slot * kPageBytes);
  }

 private:
  // Of slot_flags_: what is in flight, and what a failure left unsure.
  static constexpr std::uint8_t kReadersMask = 0x1f;
  static constexpr std::uint8_t kWriting = 0x20;
  static constexpr std::uint8_t kMaybeZero = 0x40;
  static constexpr std::uint8_t kUnknown = 0x80;
  static constexpr std::uint8_t kInFlight = kReadersMask | kWriting;
  static constexpr std::uint8_t kUnsure = kMaybeZero | kUnknown;

  void FillShadow(const Request& request);
  void EndWrite(const Request& request, std::uint32_t error);
  void EndRead(const Request& request, const std::byte* bytes, Findings* findings);
  void CheckPage(std::uint64_t slot, const std::byte* bytes, Findings* findings);
  void Report(std::uint64_t slot, const std::byte* bytes, Findings* findings) const;

  std::byte* shadow_;
  std::uint64_t slots_;
  const Corpus* corpus_;
  std::vector<std::uint32_t> generations_;
  std::vector<std::uint8_t> slot_flags_;
};

bool ExclusiveHistory::Begin(std::uint32_t /*worker*/, Request* request) {
  if (request->op == Op::kFlush) {
    return true;
  }
  const bool reads = request->op == Op::kRead;
  for (std::uint64_t slot = request->first_slot(); slot < request->end_slot(); ++slot) {
    const std::uint8_t flags = slot_flags_[slot];
    const bool full = (flags & kReadersMask) == kReadersMask;
    if (reads ? ((flags & kWriting) != 0 || full) : (flags & kInFlight) != 0) {
      return false;
    }
  }
  for (std::uint64_t slot = request->first_slot(); slot < request->end_slot(); ++slot) {
    slot_flags_[slot] = static_cast<std::uint8_t>(slot_flags_[slot] + (reads ? 1 : kWriting));
  }
  if (!reads) {
    FillShadow(*request);
    request->payload = shadow_ + request->offset;
  }
  return true;
}

void ExclusiveHistory::FillShadow(const Request& request) {
  if (request.op != Op::kWrite) {
    std::memset(shadow_ + request.offset, 0, request.length);
    return;
  }
  for (std::uint64_t slot = request.first_slot(); slot < request.end_slot(); ++slot) {
    corpus_->Copy(slot, ++generations_[slot], shadow_ + slot * kPageBytes);
  }
}

void ExclusiveHistory::End(std::uint32_t /*worker*/, Request* request, std::uint32_t error,
                           const std::byte* bytes, Findings* findings) {
  if (request->op == Op::kFlush) {
    return;
  }
  if (request->op != Op::kRead) {
    EndWrite(*request, error);
    return;
  }
  for (std::uint64_t slot = request->first_slot(); slot < request->end_slot(); ++slot) {
    --slot_flags_[slot];
  }
  if (error == 0) {
    EndRead(*request, bytes, findings);
  }
}

void ExclusiveHistory::EndWrite(const Request& request, std::uint32_t error) {
  for (std::uint64_t slot = request.first_slot(); slot < request.end_slot(); ++slot) {
    auto flags = static_cast<std::uint8_t>(slot_flags_[slot] & ~(kWriting | kUnsure));
    if (error != 0) {
      flags |= request.op == Op::kWrite ? kMaybeZero : kUnknown;
    }
    slot_flags_[slot] = flags;
  }
}

void ExclusiveHistory::EndRead(const Request& request, const std::byte* bytes, Findings* findings) {
  std::uint8_t seen = 0;
  for (std::uint64_t slot = request.first_slot(); slot < request.end_slot(); ++slot) {
    seen |= slot_flags_[slot];
  }
  if ((seen & kUnsure) == 0 && std::memcmp(bytes, shadow_ + request.offset, request.length) == 0) {
    findings->verified_pages += request.end_slot() - request.first_slot();
    return;
  }
  for (std::uint64_t slot = request.first_slot(); slot < request.end_slot(); ++slot) {
    CheckPage(slot, bytes + (slot - request.first_slot()) * kPageBytes, findings);
  }
}

void ExclusiveHistory::CheckPage(std::uint64_t slot, const std::byte* bytes, Findings* findings) {
  std::uint8_t& flags = slot_flags_[slot];
  std::byte* expected = shadow_ + slot * kPageBytes;
  if ((flags & kUnknown) != 0) {
    ++findings->unknown_pages;
    std::memcpy(expected, bytes, kPageBytes);
  } else if (std::memcmp(bytes, expected, kPageBytes) == 0) {
    ++findings->verified_pages;
  } else if ((flags & kMaybeZero) != 0 && IsZero(bytes, kPageBytes)) {
    ++findings->zeros_after_failure;
    std::memset(expected, 0, kPageBytes);
  } else {
    Report(slot, bytes, findings);
    return;
  }
  flags = static_cast<std::uint8_t>(flags & ~kUnsure);
}

void ExclusiveHistory::Report(std::uint64_t slot, const std::byte* bytes,
                              Findings* findings) const {
  const std::byte* expected = shadow_ + slot * kPageBytes;
  const auto differ = std::mismatch(bytes, bytes + kPageBytes, expected);
  findings->AddMismatch("slot " + std::to_string(slot) + " generation " +
                        std::to_string(generations_[slot]) + ": byte " +
                        std::to_string(differ.first - bytes) + " is wrong; got " +
                        corpus_->Describe(bytes) + ", expected " + corpus_->Describe(expected));
}

}  // namespace

Result<std::unique_ptr<History>> MakeExclusiveHistory(std::uint64_t slots, const Corpus* corpus) {
  void* shadow = mmap(nullptr, slots * kPageBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (shadow == MAP_FAILED) {
    return Error{std::string("no memory for a shadow of the device: ") + std::strerror(errno)};
  }
  return std::unique_ptr<History>(
      std::make_unique<ExclusiveHistory>(static_cast<std::byte*>(shadow), slots, corpus));
}

}  // namespace farswap::bench
