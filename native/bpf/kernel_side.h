// Types shared by the BPF programs (C) and the daemon (C++), besides the slot word of
// tier/slot_words.h.
#pragma once

#include <linux/types.h>

/* Set before the programs are loaded, and kept with their maps: a restarted daemon reads whether
 * the programs of an earlier one are the ones that it would load. */
struct AttributionSettings {
  __u32 layout; /* kAttributionLayout */
  __u32 device; /* as the kernel numbers it: major << 20 | minor */
};
enum { kAttributionLayout = 1 };

/* Bits of dirty[dirty_word] were set, after all had been clear. */
struct SlotFreeEvent {
  __u64 marked_ns; /* CLOCK_MONOTONIC */
  __u64 dirty_word;
};

/* Keys of the per-CPU counters. */
enum AttributionCounter {
  kAttributionBios,         /* swap writes of the device */
  kAttributionPages,        /* pages in them */
  kAttributionUnattributed, /* of these, pages without a known cgroup */
  kAttributionFreed,        /* slots that the kernel freed */
  kAttributionEvents,       /* SlotFreeEvents sent */
  kAttributionRingFull,     /* SlotFreeEvents that found no room: the sweep finds their slots */
  kAttributionCounters
};
