// Runs in the kernel. Keeps a word for each slot of one swap device (tier/slot_words.h): the cgroup
// of the page written last, and whether the kernel has freed the slot since.
//
// A write is seen on its way into the block layer, before the driver and the daemon get it, so the
// word is set when the page is stored. The page belongs to the cgroup that its folio is charged to;
// the bio's cgroup is the root where the io controller is off. A free is seen at the entry of the
// function for all frees of swap slots, under the lock that delays the slot's next allocation.
//
// A slot has one write between its allocation and its free, so no two programs change a word at the
// same time. A free sets the word, then the dirty bit, then sends the event; the daemon reads them
// in reverse.
//
// Compiled once and relocated to the running kernel's types when loaded; the structures below name
// only the members that are read.
#include <linux/bpf.h>
// clang-format off
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
// clang-format on

#include "kernel_side.h"

#define RELOCATED __attribute__((preserve_access_index))

struct kernfs_node {
  __u64 id;
} RELOCATED;
struct cgroup {
  struct kernfs_node* kn;
} RELOCATED;
struct cgroup_subsys_state {
  struct cgroup* cgroup;
} RELOCATED;
struct mem_cgroup {
  struct cgroup_subsys_state css;
} RELOCATED;
struct page {
  unsigned long compound_head;
  unsigned long memcg_data;
} RELOCATED;
struct block_device {
  __u32 bd_dev;
} RELOCATED;
struct bvec_iter {
  __u64 bi_sector;
  unsigned int bi_size;
} RELOCATED;
struct bio_vec {
  struct page* bv_page;
  unsigned int bv_len;
} RELOCATED;
struct bio {
  struct block_device* bi_bdev;
  unsigned int bi_opf;
  struct bvec_iter bi_iter;
  struct bio_vec* bi_io_vec;
} RELOCATED;
struct inode {
  unsigned short i_mode;
} RELOCATED;
struct file {
  struct inode* f_inode;
} RELOCATED;
struct swap_info_struct {
  struct block_device* bdev;
  struct file* swap_file;
} RELOCATED;
enum req_flag_bits { __REQ_SWAP = 1 };

#define FILE_TYPE_MASK 0170000
#define FILE_TYPE_BLOCK_DEVICE 0060000
#define OPERATION_MASK 0xff
#define OPERATION_WRITE 1
#define SECTORS_PER_PAGE_SHIFT 3
#define PAGE_SHIFT 12
/* A swap entry on 64-bit machines: 5 or 6 bits of swap area over the slot. */
#define ENTRY_SLOT_MASK ((1ull << 58) - 1)
/* Tail pages point to their head, with this bit set. */
#define TAIL_PAGE 1ul
/* What memcg_data points to: 0 is a mem_cgroup, and a swapped page has nothing else. */
#define MEMCG_DATA_KIND 3ul
#define MEMCG_DATA_FLAGS 7ul
/* Up to 6.18 a swap bio is one folio, so one vector. */
#define VECTORS_MAX 8

#define WORD_FREE 1ull
#define WORD_SEQUENCE_STEP 2u
#define WORD_CGROUP_SHIFT 32

const volatile struct AttributionSettings settings = {};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1); /* the loader sets it: slots */
  __type(key, __u32);
  __type(value, __u64);
} slots SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1); /* the loader sets it: slots / 64, rounded up */
  __type(key, __u32);
  __type(value, __u64);
} dirty SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 18);
} events SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, kAttributionCounters);
  __type(key, __u32);
  __type(value, __u64);
} counters SEC(".maps");

static __always_inline void Count(__u32 counter, __u64 by) {
  __u64* value = bpf_map_lookup_elem(&counters, &counter);
  if (value) *value += by;
}

/* The low half of a word after its sequence has gone up, not free. */
static __always_inline __u64 NextSequence(__u64 word) {
  return ((__u32)word & ~(__u32)WORD_FREE) + WORD_SEQUENCE_STEP;
}

struct RunOfSlots {
  __u64 first;
  __u64 cgroup;
};

static long MarkWritten(__u32 index, struct RunOfSlots* run) {
  __u32 slot = run->first + index;
  volatile __u64* word = bpf_map_lookup_elem(&slots, &slot);
  if (!word) return 1;
  *word = run->cgroup << WORD_CGROUP_SHIFT | (__u32)NextSequence(*word);
  return 0;
}

static __always_inline __u64 CgroupOf(struct page* page) {
  unsigned long head = BPF_CORE_READ(page, compound_head);
  if (head & TAIL_PAGE) page = (struct page*)(head & ~TAIL_PAGE);
  unsigned long charged = BPF_CORE_READ(page, memcg_data);
  struct mem_cgroup* memcg = (struct mem_cgroup*)(charged & ~MEMCG_DATA_FLAGS);
  if (!memcg || charged & MEMCG_DATA_KIND) return 0;
  return (__u32)BPF_CORE_READ(memcg, css.cgroup, kn, id);
}

SEC("tp_btf/block_bio_queue")
int BPF_PROG(swap_write, struct bio* bio) {
  if (bio->bi_bdev->bd_dev != settings.device) return 0;
  __u32 operation = bio->bi_opf;
  if ((operation & OPERATION_MASK) != OPERATION_WRITE) return 0;
  if (!(operation >> bpf_core_enum_value(enum req_flag_bits, __REQ_SWAP) & 1)) return 0;

  struct RunOfSlots run = {.first = bio->bi_iter.bi_sector >> SECTORS_PER_PAGE_SHIFT};
  __u32 pages_left = bio->bi_iter.bi_size >> PAGE_SHIFT;
  void* vector = bio->bi_io_vec;
  Count(kAttributionBios, 1);
  Count(kAttributionPages, pages_left);
  for (int i = 0; i < VECTORS_MAX && pages_left; ++i) {
    struct bio_vec* one = vector;
    __u32 pages = BPF_CORE_READ(one, bv_len) >> PAGE_SHIFT;
    if (pages > pages_left) pages = pages_left;
    run.cgroup = CgroupOf(BPF_CORE_READ(one, bv_page));
    if (!run.cgroup) Count(kAttributionUnattributed, pages);
    bpf_loop(pages, MarkWritten, &run, 0);
    run.first += pages;
    pages_left -= pages;
    vector += bpf_core_type_size(struct bio_vec);
  }
  return 0;
}

static long MarkFree(__u32 index, struct RunOfSlots* run) {
  __u32 slot = run->first + index;
  volatile __u64* word = bpf_map_lookup_elem(&slots, &slot);
  if (!word) return 1;
  /* The owner stays, for reports. */
  __u64 owner = *word >> WORD_CGROUP_SHIFT << WORD_CGROUP_SHIFT;
  *word = owner | (__u32)NextSequence(*word) | WORD_FREE;

  __u32 dirty_word = slot / 64;
  __u64* bits = bpf_map_lookup_elem(&dirty, &dirty_word);
  if (!bits) return 1;
  if (__sync_fetch_and_or(bits, 1ull << slot % 64)) return 0;
  struct SlotFreeEvent* event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
  if (!event) {
    Count(kAttributionRingFull, 1);
    return 0;
  }
  event->marked_ns = bpf_ktime_get_ns();
  event->dirty_word = dirty_word;
  bpf_ringbuf_submit(event, 0);
  Count(kAttributionEvents, 1);
  return 0;
}

static __always_inline int Freed(struct swap_info_struct* area, __u64 entry, __u32 pages) {
  struct block_device* device = area->bdev;
  if (!device || device->bd_dev != settings.device) return 0;
  /* The slots of a swap file on a file system there are not the device's. */
  unsigned short mode = BPF_CORE_READ(area, swap_file, f_inode, i_mode);
  if ((mode & FILE_TYPE_MASK) != FILE_TYPE_BLOCK_DEVICE) return 0;
  struct RunOfSlots run = {.first = entry & ENTRY_SLOT_MASK};
  Count(kAttributionFreed, pages);
  bpf_loop(pages, MarkFree, &run, 0);
  return 0;
}

/* The loader attaches one of these to the function that frees slots on this kernel; see
 * free_hook.h. Some kernels pass a slot instead of an entry, which is an entry of area 0. */
SEC("fentry")
int BPF_PROG(slots_freed_of_3, struct swap_info_struct* area, __u64 entry, __u32 pages) {
  return Freed(area, entry, pages);
}

SEC("fentry")
int BPF_PROG(slots_freed_of_4, struct swap_info_struct* area, void* cluster, __u64 entry,
             __u32 pages) {
  return Freed(area, entry, pages);
}

char licence[] SEC("license") = "Dual BSD/GPL";
