// A client at full speed that knows what each request must be answered, and how often: once.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "nbd_client.h"
#include "stamped_page.h"

namespace farswap::nbd {

class VerifyingClient {
 public:
  /// Of slots [0, slots) that are empty, with up to `depth` requests under way, of which no two
  /// touch the same slot. Borrows the socket.
  VerifyingClient(int socket, tier::SlotIndex slots, std::size_t depth)
      : socket_(socket), slots_(slots), tags_(depth) {
    receiver_ = std::thread([this] { Receive(); });
    sender_ = std::thread([this] { Send(); });
  }
  ~VerifyingClient() { End(); }

  /// Sends no more requests, and waits for the answers. Then no more may come.
  void End() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
      changed_.notify_all();
    }
    if (sender_.joinable()) sender_.join();
    if (receiver_.joinable()) receiver_.join();
    pollfd wait{socket_, POLLIN, 0};
    if (failure().empty() && poll(&wait, 1, 0) > 0) Fail("more is sent than was asked for");
  }
  /// What is wrong; "": nothing.
  std::string failure() {
    const std::lock_guard lock(mutex_);
    return failure_;
  }
  std::uint64_t replies() const { return replies_.load(); }
  /// False: none has come.
  bool AwaitReplyAfter(std::uint64_t replies, std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, timeout, [&] { return replies_ > replies || !failure_.empty(); });
    return failure_.empty() && replies_ > replies;
  }
  /// The longest time between two replies since the last call.
  std::chrono::nanoseconds TakeLongestGap() {
    const std::lock_guard lock(mutex_);
    return std::exchange(longest_gap_, {});
  }
  /// Ends what waits for the server.
  void Fail(const std::string& why) {
    const std::lock_guard lock(mutex_);
    if (failure_.empty()) failure_ = why;
    ending_ = true;
    changed_.notify_all();
    shutdown(socket_, SHUT_RDWR);
  }

 private:
  static constexpr std::size_t kPagesMax = 64;

  struct Tag {
    std::uint64_t cookie = 0;  // 0: free
    Command command{};
    tier::SlotIndex first = 0;
    std::uint32_t count = 0;
  };
  struct Slot {
    tier::Stamp stamp = 0;
    bool busy = false;
  };

  static std::uint32_t CountOf(std::mt19937_64& random) {
    return static_cast<std::uint32_t>(random() % 64 == 0 ? 1 + random() % kPagesMax
                                                         : 1 + random() % 8);
  }
  bool FindFree(Tag* tag, std::mt19937_64& random) {
    tag->count = CountOf(random);
    for (int tries = 0; tries < 100; ++tries) {
      tag->first = static_cast<tier::SlotIndex>(random() % (slots_.size() - tag->count));
      const auto at = slots_.begin() + tag->first;
      if (std::none_of(at, at + tag->count, [](const Slot& slot) { return slot.busy; }))
        return true;
    }
    return false;
  }
  // Waits until a request may be sent. False: no more.
  bool Begin(Tag* begun, std::mt19937_64& random) {
    std::unique_lock lock(mutex_);
    const auto is_free = [](const Tag& tag) { return tag.cookie == 0; };
    changed_.wait(lock, [&] {
      return ending_ || std::find_if(tags_.begin(), tags_.end(), is_free) != tags_.end();
    });
    if (ending_) return false;
    Tag& tag = *std::find_if(tags_.begin(), tags_.end(), is_free);
    const auto index = static_cast<std::uint64_t>(&tag - tags_.data());
    const std::uint64_t choice = random() % 16;
    tag.command = choice == 0 ? Command::kTrim : choice % 2 == 0 ? Command::kRead : Command::kWrite;
    if (!FindFree(&tag, random)) return Fail(lock, "no slots are free");
    tag.cookie = ++sent_ << 8 | index;
    for (std::uint32_t i = 0; i < tag.count; ++i) {
      Slot& slot = slots_[tag.first + i];
      slot.busy = true;
      if (tag.command == Command::kTrim) slot.stamp = 0;
      if (tag.command == Command::kWrite) slot.stamp = ++stamp_;
    }
    *begun = tag;
    changed_.notify_all();
    return true;
  }
  bool Fail(std::unique_lock<std::mutex>& lock, const std::string& why) {
    lock.unlock();
    Fail(why);
    lock.lock();
    return false;
  }
  void Send() {
    std::mt19937_64 random(1);
    for (Tag tag; Begin(&tag, random);) {
      Bytes message = RequestBytes(tag.command, tag.cookie, tag.first * tier::kPageBytes,
                                   tag.count * static_cast<std::uint32_t>(tier::kPageBytes));
      if (tag.command == Command::kWrite) {
        message.resize(message.size() + tag.count * tier::kPageBytes);
        for (std::uint32_t i = 0; i < tag.count; ++i) {
          std::byte* const page = message.data() + kRequestBytes + i * tier::kPageBytes;
          // Nobody else changes the stamp of a slot that is busy.
          tier::FillStamped(tag.first + i, slots_[tag.first + i].stamp, page);
        }
      }
      std::span<const std::byte> rest(message);
      if (random() % 4 == 0) {  // in two parts
        const std::size_t part = random() % message.size();
        if (!SendAll(rest.first(part))) return;
        rest = rest.subspan(part);
        std::this_thread::yield();
      }
      if (!SendAll(rest)) return;
    }
  }
  bool SendAll(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) {
        Fail("the server has closed the connection");
        return false;
      }
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
    return true;
  }
  bool ReceiveAll(std::byte* to, std::size_t count) {
    while (count > 0) {
      const ssize_t got = recv(socket_, to, count, 0);
      if (got <= 0) {
        Fail("the server has closed the connection");
        return false;
      }
      to += got;
      count -= static_cast<std::size_t>(got);
    }
    return true;
  }
  bool AwaitsAny() {
    std::unique_lock lock(mutex_);
    const auto is_used = [](const Tag& tag) { return tag.cookie != 0; };
    const auto any = [&] { return std::any_of(tags_.begin(), tags_.end(), is_used); };
    changed_.wait(lock, [&] { return ending_ || any(); });
    return failure_.empty() && any();
  }
  void Receive() {
    std::array<std::byte, kSimpleReplyBytes> header;
    Bytes data(kPagesMax * tier::kPageBytes);
    while (AwaitsAny()) {
      if (!ReceiveAll(header.data(), header.size())) return;
      Tag tag;
      if (!Match(header, &tag)) return;
      const std::size_t bytes = tag.count * tier::kPageBytes;
      if (tag.command == Command::kRead &&
          (!ReceiveAll(data.data(), bytes) || !Verify(tag, data.data()))) {
        return;
      }
      Finish(tag);
    }
  }
  // The request that the reply is to.
  bool Match(std::span<const std::byte> header, Tag* tag) {
    std::uint64_t cookie;
    cookie = LoadBigEndian<std::uint64_t>(header.data() + 8);
    const std::uint32_t error = LoadBigEndian<std::uint32_t>(header.data() + 4);
    std::unique_lock lock(mutex_);
    const std::uint64_t index = cookie & 255;
    if (LoadBigEndian<std::uint32_t>(header.data()) != kSimpleReplyMagic) {
      return Fail(lock, "the replies are out of step");
    }
    if (index >= tags_.size() || cookie == 0 || tags_[index].cookie != cookie) {
      return Fail(lock, "a request is answered that was answered before, or never sent");
    }
    if (error != 0) return Fail(lock, "a request is answered with error " + std::to_string(error));
    *tag = tags_[index];
    return true;
  }
  bool Verify(const Tag& tag, const std::byte* data) {
    std::array<std::byte, tier::kPageBytes> wanted{};
    for (std::uint32_t i = 0; i < tag.count; ++i) {
      const tier::Stamp stamp = slots_[tag.first + i].stamp;
      wanted.fill(std::byte{0});
      if (stamp != 0) tier::FillStamped(tag.first + i, stamp, wanted.data());
      if (std::memcmp(data + i * tier::kPageBytes, wanted.data(), wanted.size()) == 0) continue;
      Fail("slot " + std::to_string(tag.first + i) + " has another page than stamp " +
           std::to_string(stamp));
      return false;
    }
    return true;
  }
  void Finish(const Tag& tag) {
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard lock(mutex_);
    for (std::uint32_t i = 0; i < tag.count; ++i) slots_[tag.first + i].busy = false;
    tags_[tag.cookie & 255].cookie = 0;
    if (replies_ > 0) longest_gap_ = std::max(longest_gap_, now - last_reply_);
    last_reply_ = now;
    ++replies_;
    changed_.notify_all();
  }

  const int socket_;
  std::mutex mutex_;  // guards what follows, the stamps of slots that are not busy included
  std::condition_variable changed_;
  std::vector<Slot> slots_;
  std::vector<Tag> tags_;
  std::uint64_t sent_ = 0;
  tier::Stamp stamp_ = 0;
  bool ending_ = false;
  std::string failure_;
  std::chrono::nanoseconds longest_gap_{};
  std::chrono::steady_clock::time_point last_reply_;
  std::atomic<std::uint64_t> replies_{0};
  std::thread receiver_;
  std::thread sender_;
};

}  // namespace farswap::nbd
