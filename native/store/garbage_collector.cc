#include "store/garbage_collector.h"

#include <rocksdb/convenience.h>

#include <chrono>
#include <memory>
#include <string>

#include "base/thread.h"

namespace farswap::store {
namespace {

constexpr std::chrono::seconds kRetryAfter{5};

}  // namespace

GarbageCollector::GarbageCollector(Rocks* rocks, VolumeTable* volumes, Counters* counters)
    : rocks_(rocks), volumes_(volumes), counters_(counters) {
  thread_ = StartThread("fs-garbage", [this] { Run(); });
}

GarbageCollector::~GarbageCollector() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void GarbageCollector::Wake() {
  {
    std::lock_guard lock(mutex_);
    woken_ = true;
  }
  changed_.notify_all();
}

bool GarbageCollector::WaitForWork(bool failed) {
  std::unique_lock lock(mutex_);
  const auto ready = [this] { return stopping_ || woken_; };
  if (failed) {
    changed_.wait_for(lock, kRetryAfter, ready);
  } else {
    changed_.wait(lock, ready);
  }
  woken_ = false;
  return !stopping_;
}

void GarbageCollector::Run() {
  bool failed = false;
  while (WaitForWork(failed)) {
    failed = false;
    while (const std::shared_ptr<Volume> volume = stopping_ ? nullptr : volumes_->NextGarbage()) {
      if (Outcome collected = Collect(*volume); !collected.ok()) {
        failed = true;
        counters_->Add(Counter::garbage_failures);
        break;
      }
      counters_->Add(Counter::garbage_volumes_deleted);
    }
  }
}

Outcome GarbageCollector::Collect(const Volume& volume) {
  const std::string begin_key = EncodeVolumeKey(volume.id);
  const std::string end_key = EncodeVolumeKey(volume.id + 1);
  const rocksdb::Slice begin(begin_key);
  const rocksdb::Slice end(end_key);
  rocksdb::DB* db = rocks_->db.get();
  rocksdb::Status status = rocksdb::DeleteFilesInRange(db, rocks_->pages, &begin, &end, false);
  if (status.ok()) {
    rocksdb::WriteBatch batch;
    batch.DeleteRange(rocks_->pages, begin, end);
    status = rocks_->Write(&batch);
  }
  if (status.ok()) {
    rocksdb::CompactRangeOptions options;
    options.exclusive_manual_compaction = false;
    options.canceled = &stopping_;
    status = db->CompactRange(options, rocks_->pages, &begin, &end);
  }
  // Else a log of the volume's pages stays for the sake of a few records of these.
  if (status.ok()) status = db->Flush({}, {rocks_->volumes, rocks_->usage});
  return status.ok() ? volumes_->Forget(volume) : Outcome(Error{status.ToString()});
}

}  // namespace farswap::store
