#include "store/scrubber.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/thread.h"
#include "store/lookup.h"
#include "tier/page.h"

namespace farswap::store {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr char kPassKey[] = "p";
constexpr milliseconds kIdle{1000};
constexpr milliseconds kSaveEvery{60'000};

}  // namespace

Result<ScrubPass> Scrubber::Load(Rocks* rocks) {
  std::string value;
  const rocksdb::Status status = rocks->db->Get({}, rocks->volumes, kPassKey, &value);
  if (status.IsNotFound()) return ScrubPass{};
  if (!status.ok()) {
    return Error{status.ToString()};
  }
  const auto pass = DecodeScrubPass(value);
  if (!pass) return Error{"the record of the scrub is damaged"};
  return *pass;
}

Scrubber::Scrubber(const Store& store, const ScrubConfig& config, const ScrubPass& pass)
    : store_(store),
      config_(config),
      cleaner_(store.rocks, store.volumes, store.damage, store.counters),
      counted_until_(store.clock->Now()),
      saved_at_(counted_until_),
      pass_(pass) {
  store_.rocks->damaged->Watch([this] {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    changed_.notify_all();
  });
  thread_ = StartThread("fs-scrub", [this] { Run(); });
}

Scrubber::~Scrubber() {
  store_.rocks->damaged->Watch(nullptr);
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  thread_.join();
  Save();
}

void Scrubber::Request() {
  const std::lock_guard lock(mutex_);
  requested_ = true;
  woken_ = true;
  changed_.notify_all();
}

ScrubPass Scrubber::pass() const {
  const std::lock_guard lock(mutex_);
  return pass_;
}

void Scrubber::Run() {
  for (nanoseconds pause{0}; Wait(pause);) pause = Step();
}

bool Scrubber::Wait(nanoseconds span) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, span, [this] { return stopping_ || woken_; });
  woken_ = false;
  return !stopping_;
}

// Returns the pause until the next one.
nanoseconds Scrubber::Step() {
  CleanFiles();
  const milliseconds now = store_.clock->Now();
  {
    const std::lock_guard lock(mutex_);
    const auto more = static_cast<std::uint64_t>((now - counted_until_).count());
    pass_.elapsed_ms += more;
    pass_.ended_ago_ms += more;
    counted_until_ = now;
  }
  const bool reading = BeginIfDue();
  const std::uint64_t bytes = reading ? ReadSome() : 0;
  if (now - saved_at_ >= kSaveEvery) Save();
  if (!reading) return kIdle;
  const std::uint64_t interval_ms =
      std::max<std::uint64_t>(1, static_cast<std::uint64_t>(config_.interval.count()));
  std::uint64_t rate = config_.bytes_per_second_requested;
  if (!pass().requested) {
    rate = std::max(config_.bytes_per_second_min,
                    store_.volumes->live_bytes().value() / interval_ms * 1000);
  }
  return nanoseconds(std::chrono::seconds(1)) * bytes / rate;
}

void Scrubber::CleanFiles() {
  while (const auto path = store_.rocks->damaged->Next()) {
    const rocksdb::Status cleaned = cleaner_.Clean(*path, stopping_);
    if (stopping_) return;
    // After other errors, what meets the damage again notes the file again.
    store_.rocks->damaged->End(*path, !cleaned.IsCorruption());
  }
}

// Whether a pass is running.
bool Scrubber::BeginIfDue() {
  const std::lock_guard lock(mutex_);
  const bool again = requested_ && !(pass_.running && pass_.requested);
  const bool due = !pass_.running && config_.interval.count() > 0 &&
                   (pass_.passes == 0 || milliseconds(pass_.elapsed_ms) >= config_.interval);
  if (again || due) {
    pass_ = {.running = true,
             .requested = again,
             .passes = pass_.passes,
             .ended_ago_ms = pass_.ended_ago_ms};
  }
  requested_ = false;
  return pass_.running && (pass_.requested || config_.interval.count() > 0);
}

// Reads a part of the records; returns their bytes.
std::uint64_t Scrubber::ReadSome() {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> it(
      store_.rocks->db->NewIterator(options, store_.rocks->pages));
  Place place{pass().volume_id, pass().key};
  const auto seek = [&] {
    const RecordKey key = EncodeRecordKey(place.volume_id, place.key);
    it->Seek(AsSlice(key));
  };
  std::uint64_t bytes = 0;
  std::uint64_t records = 0;
  for (seek(); it->Valid() && bytes < config_.bytes_at_once && !stopping_;) {
    const std::string_view key = it->key().ToStringView();
    const Place found{DecodeVolumeKey(key.substr(0, 8)).value_or(0), DecodeRecordKey(key)};
    if (found.volume_id != place.volume_id) {
      const std::shared_ptr<Volume> volume = store_.volumes->Find(found.volume_id);
      if (!volume || volume->garbage) {
        place = {found.volume_id + 1, 0};
        seek();
        continue;
      }
    }
    if (!VerifyRecord(found, it->value().ToStringView())) DeleteDamaged(found);
    ++records;
    bytes += key.size() + it->value().size();
    place = {found.volume_id, found.key + 1};
    it->Next();
  }
  if (records > 0) skip_keys_ = tier::kShardSlots;
  store_.counters->Add(Counter::scrub_records, records);
  store_.counters->Add(Counter::scrub_bytes, bytes);
  {
    const std::lock_guard lock(mutex_);
    pass_.volume_id = place.volume_id;
    pass_.key = place.key;
    pass_.read_bytes += bytes;
  }
  if (!it->Valid()) {
    if (it->status().ok()) {
      EndPass();
    } else if (!PassDamage(it->status())) {
      store_.counters->Add(Counter::scrub_unreadable);
    }
  }
  return bytes;
}

bool Scrubber::VerifyRecord(const Place& place, std::string_view value) {
  const auto record = DecodeRecord(place.key, value);
  return record && IsValidObject(*record);
}

// It is read again with its stripe locked, so that no other Put or Discard comes between.
void Scrubber::DeleteDamaged(const Place& place) {
  const std::shared_ptr<Volume> volume = store_.volumes->Find(place.volume_id);
  if (!volume || !volume->Holds(place.key)) return;
  const StripesLock stripe(volume.get(), std::uint32_t{1} << Volume::StripeOf(place.key));
  if (volume->garbage) return;
  Lookup lookup(store_.rocks);
  lookup.Add(place.volume_id, place.key);
  lookup.Run(true);
  if (!lookup.status(0).ok() || VerifyRecord(place, lookup.value(0))) return;
  const std::uint64_t shard =
      tier::FirstSlotOf(static_cast<tier::ObjectKey>(place.key)) / tier::kShardSlots;
  if (!store_.damage->Add(place.volume_id, shard, shard).ok()) return;
  const Usage change{.pages = -1,
                     .bytes = -static_cast<std::int64_t>(kRecordKeyBytes + lookup.value(0).size())};
  rocksdb::WriteBatch batch;
  const RecordKey key = EncodeRecordKey(place.volume_id, place.key);
  batch.Delete(store_.rocks->pages, AsSlice(key));
  batch.Merge(store_.rocks->usage, EncodeVolumeKey(place.volume_id), EncodeUsage(change));
  if (!store_.rocks->Write(&batch).ok()) return;
  store_.volumes->Apply(change, volume.get());
  store_.counters->Add(Counter::scrub_damaged_records);
}

// The pass has met `status`: repairs the file, or skips some keys; false then.
bool Scrubber::PassDamage(const rocksdb::Status& status) {
  if (store_.rocks->damaged->Note(status)) {
    const auto block = DamagedBlockOf(status);
    const rocksdb::Status cleaned = cleaner_.Clean(block->path, stopping_);
    if (stopping_) return true;
    store_.rocks->damaged->End(block->path, !cleaned.IsCorruption());
    if (cleaned.ok()) return true;
  }
  Skip();
  return false;
}

// Farther each time, since it is unknown how much cannot be read.
void Scrubber::Skip() {
  std::uint64_t volume_id = UINT64_MAX;
  const std::lock_guard lock(mutex_);
  for (const std::shared_ptr<Volume>& volume : store_.volumes->List()) {
    if (volume->garbage || volume->id < pass_.volume_id) continue;
    volume_id = std::min(volume_id, volume->id);
  }
  if (volume_id != pass_.volume_id) pass_.key = 0;
  pass_.volume_id = volume_id;
  pass_.key += skip_keys_;
  skip_keys_ *= 2;
  if (pass_.key > UINT32_MAX && volume_id != UINT64_MAX) {
    ++pass_.volume_id;
    pass_.key = 0;
  }
}

void Scrubber::EndPass() {
  {
    const std::lock_guard lock(mutex_);
    pass_.running = pass_.requested = false;
    ++pass_.passes;
    pass_.ended_ago_ms = 0;
  }
  Save();
}

// Without fsync: after a power loss, the pass goes on from an earlier place.
void Scrubber::Save() {
  store_.damage->Save([this](std::uint64_t volume_id) {
    const std::shared_ptr<Volume> volume = store_.volumes->Find(volume_id);
    return volume && !volume->garbage;
  });
  rocksdb::WriteBatch batch;
  batch.Put(store_.rocks->volumes, kPassKey, EncodeScrubPass(pass()));
  store_.rocks->TryWrite(&batch).PermitUncheckedError();
  saved_at_ = store_.clock->Now();
}

}  // namespace farswap::store
