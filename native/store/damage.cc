#include "store/damage.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace farswap::store {

Outcome Damage::Load() {
  const std::lock_guard lock(mutex_);
  const std::unique_ptr<rocksdb::Iterator> it(rocks_->db->NewIterator({}, rocks_->volumes));
  for (it->Seek(EncodeDamageKey(0, 0)); it->Valid(); it->Next()) {
    const auto report = DecodeDamagedShards(it->key().ToStringView(), it->value().ToStringView());
    if (!report) return Error{"the record of damaged shards is damaged"};
    reports_.emplace(std::pair(report->first, report->second.report), report->second);
    last_report_ = std::max(last_report_, report->second.report);
  }
  return it->status().ok() ? Outcome(std::monostate{}) : Outcome(Error{it->status().ToString()});
}

rocksdb::Status Damage::Add(std::uint64_t volume_id, std::uint64_t first, std::uint64_t last) {
  rocksdb::WriteBatch batch;
  std::vector<Reports::key_type> replaced;
  std::unique_lock lock(mutex_);
  DamagedShards added{.report = ++last_report_, .first = first, .last = last};
  for (auto it = Begin(volume_id); it != reports_.end() && it->first.first == volume_id; ++it) {
    if (it->second.last < first || it->second.first > last) continue;
    added.first = std::min(added.first, it->second.first);
    added.last = std::max(added.last, it->second.last);
    replaced.push_back(it->first);
    batch.Delete(rocks_->volumes, EncodeDamageKey(volume_id, it->second.report));
  }
  batch.Put(rocks_->volumes, EncodeDamageKey(volume_id, added.report), EncodeDamagedShards(added));
  lock.unlock();
  rocksdb::Status status = rocks_->Write(&batch);
  if (!status.ok()) return status;
  lock.lock();
  for (const auto& key : replaced) reports_.erase(key);
  reports_.emplace(std::pair(volume_id, added.report), added);
  return status;
}

std::vector<DamagedShards> Damage::Of(std::uint64_t volume_id) const {
  std::vector<DamagedShards> oldest;
  const std::lock_guard lock(mutex_);
  for (auto it = Begin(volume_id); it != reports_.end() && it->first.first == volume_id; ++it) {
    if (oldest.size() == kReportsMax) break;
    oldest.push_back(it->second);
  }
  return oldest;
}

bool Damage::End(std::uint64_t volume_id, std::uint64_t report) {
  const std::lock_guard lock(mutex_);
  if (reports_.erase({volume_id, report}) == 0) return false;
  ended_.emplace(volume_id, report);
  return true;
}

void Damage::Save(const std::function<bool(std::uint64_t volume_id)>& lives) {
  rocksdb::WriteBatch batch;
  std::unique_lock lock(mutex_);
  std::erase_if(reports_, [&](const auto& report) {
    const bool gone = !lives(report.first.first);
    if (gone) ended_.insert(report.first);
    return gone;
  });
  const auto ended = ended_;
  lock.unlock();
  for (const auto& [volume_id, report] : ended) {
    batch.Delete(rocks_->volumes, EncodeDamageKey(volume_id, report));
  }
  if (ended.empty() || !rocks_->TryWrite(&batch).ok()) return;
  lock.lock();
  for (const auto& report : ended) ended_.erase(report);
}

std::uint64_t Damage::shards() const {
  std::uint64_t sum = 0;
  const std::lock_guard lock(mutex_);
  for (const auto& [key, shards] : reports_) sum += shards.last - shards.first + 1;
  return sum;
}

}  // namespace farswap::store
