// A mutex in memory that several processes map. It outlives its owner: when a thread or process
// dies that holds it, the kernel hands it to the next one, before it unmaps the dead one's memory.
#pragma once

#include <pthread.h>

#include <cerrno>

#include "base/check.h"

namespace farswap {

class RobustMutex {
 public:
  /// Before any process uses it, and again only while none does.
  void Init() {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    FARSWAP_CHECK(pthread_mutex_init(&mutex_, &attributes) == 0);
    pthread_mutexattr_destroy(&attributes);
  }
  /// True: the owner before died with it.
  bool Lock() { return Accept(pthread_mutex_lock(&mutex_)); }
  bool TryLock() {
    const int result = pthread_mutex_trylock(&mutex_);
    if (result == EBUSY) return false;
    Accept(result);
    return true;
  }
  void Unlock() { FARSWAP_CHECK(pthread_mutex_unlock(&mutex_) == 0); }

 private:
  bool Accept(int result) {
    FARSWAP_CHECK(result == 0 || result == EOWNERDEAD);
    if (result == EOWNERDEAD) pthread_mutex_consistent(&mutex_);
    return result == EOWNERDEAD;
  }

  pthread_mutex_t mutex_;
};

}  // namespace farswap
