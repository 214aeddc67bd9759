// A RemoteStore in memory, for tests of the tier: answers on its own thread, can be held at any
// point, can fail on request, and shows its objects.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "tier/remote_store.h"

namespace farswap::tier {

class MemoryRemote final : public RemoteStore {
 public:
  MemoryRemote();
  ~MemoryRemote() override;

  void Put(PutBatch* batch) override;
  void Get(RemoteFetch* fetch) override;
  bool TakesDiscards(SlotIndex slot) const override;
  void Discard(std::span<const DiscardItem> items) override;
  bool Writable() const override;

  /// While held, requests are accepted and not answered.
  void Hold();
  /// Puts are, Gets are answered.
  void HoldPuts();
  void HoldGets();  // the other way round
  void Release();
  /// Blocks until `requests` Puts or Gets are waiting to be answered.
  void WaitForHeld(std::size_t requests);
  /// Requests that wait to be answered or are being answered.
  std::size_t Unanswered() const;
  /// After so many more Puts that are answered as they should be. kAcked: no more failures.
  void FailPuts(PutResult result, std::size_t after = 0);
  void LosePutAnswers();  // pages are kept, and said to be unavailable; until FailPuts()
  /// After so many more objects that are answered as they should be. kFound: no more failures.
  void FailGets(GetResult result, std::size_t after = 0);
  void SetWritable(bool writable);
  /// From now on, a second server keeps what is put too, and answers when the first one's
  /// object is refused. Changes of objects apply to those of the first.
  void SetReplicated(bool replicated);
  void RefuseDiscards(bool refuse, SlotIndex end = kSlotsMax);  // of slots below the end
  void HoldDiscards();  // they are taken, and done when they are released
  void ReleaseDiscards();
  std::size_t held_discards() const;

  bool Has(ObjectKey key) const;
  ObjectVersion VersionOf(ObjectKey key) const;
  std::size_t pages() const;
  std::size_t largest_batch() const;
  std::size_t objects_asked_for() const;
  std::vector<ObjectKey> put_order() const;  // in the order in which they arrived
  void Damage(ObjectKey key);                // flips a bit of what is kept
  /// Cuts off the second half of what is kept, with a checksum that is right of the first.
  void Truncate(ObjectKey key);
  void Swap(ObjectKey one, ObjectKey other);  // each is answered as the other
  void Forget(ObjectKey key);
  /// GoBack() restores the object that the key has now: a server that lost later acknowledged ones.
  void Remember(ObjectKey key);
  void GoBack(ObjectKey key);

 private:
  struct Kept {
    ObjectKey key;
    ObjectVersion version;
    Codec codec;
    std::uint32_t checksum;
    std::uint32_t stored_boot_s;
    std::vector<std::byte> bytes;
  };

  enum class Held { kNothing, kPuts, kGets, kAll };
  struct Request {
    bool put;
    std::function<void()> answer;
  };

  void Run();
  void Submit(Request request);
  void SetHeld(Held held);
  std::deque<Request>::iterator NextToAnswer();  // with mutex_ held
  void AnswerPut(PutBatch* batch);
  void AnswerGet(RemoteFetch* fetch);
  void AnswerGet(RemoteFetch* fetch, std::size_t index);
  GetResult NextGetResult();
  std::optional<Kept> Find(const std::map<ObjectKey, Kept>& server, ObjectKey key) const;
  void DoDiscards(std::span<const DiscardItem> items);  // with mutex_ held

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Request> queue_;
  std::map<ObjectKey, Kept> kept_;
  std::map<ObjectKey, Kept> replica_;
  bool is_replicated_ = false;
  std::map<ObjectKey, Kept> remembered_;
  std::vector<ObjectKey> put_order_;
  std::size_t largest_batch_ = 0;
  Held held_ = Held::kNothing;
  bool writable_ = true;
  SlotIndex refusing_discards_below_ = 0;
  bool holding_discards_ = false;
  std::vector<DiscardItem> held_discards_;
  std::size_t objects_asked_for_ = 0;
  bool stopping_ = false;
  std::size_t puts_before_failure_ = 0;
  PutResult put_failure_ = PutResult::kAcked;
  bool answering_ = false;
  bool keeps_failed_puts_ = false;
  std::size_t gets_before_failure_ = 0;
  GetResult get_failure_ = GetResult::kFound;
  std::thread thread_;
};

}  // namespace farswap::tier
