/* byte_ring: one direction of a port in memory that two processes share: records of any length, one producer, one
 * consumer.
 *
 * Algorithm.  The single-producer single-consumer ring with free-running positions, published by one exchange of the
 * tail (Lamport's ring; the padding record at the end of the buffer is that of Agrona's and Aeron's ring buffers).
 * Each process keeps its own position and the capacity for itself, and believes nothing of what the other one wrote.
 * Putting "I sleep" and "I have closed" into the low bits of the very words that the other side exchanges is what
 * makes waiting free of a fence, as in csrc/ring.h.
 *
 * Progress.  No call waits.  A producer that dies anywhere before its exchange has published nothing.  Who dies behind an
 * exchange may leave its bell unrung, so whoever learns of a death looks once more.
 *
 * Bells.  One may come to nobody who sleeps: who armed and then did not sleep, or not for so long, is rung all the same.
 *
 * Who may call what.  Producer's calls: one thread at a time of the one producing process.  Consumer's calls: one thread
 * at a time of the one consuming process.  Each side needs a lock of its own process for that, and none across.
 * byte_ring_longest, byte_ring_waiting and byte_ring_consumer_closed: any thread.
 *
 * Invariants.
 *   B1  0 <= tail - head <= capacity, positions compared by unsigned difference; both are multiples of 8.
 *   B2  Bytes in [head, tail) are whole records, written before the exchange that published them (release) and read
 *       after the load that saw it (acquire).
 *   B3  A record never crosses the end of the buffer: a padding record fills the rest before it.
 *   B4  BYTE_RING_SLEEPS in the tail is set by the consumer only while tail == its position; the exchange that
 *       publishes next takes it away and owes a bell.  Likewise in the head, by the producer only while the head is
 *       the one that it has looked at; the exchange that releases next takes it away and owes a bell.
 *   B5  BYTE_RING_CLOSED in the tail (by the producer) and in the head (by the consumer) are never taken away.
 *   B6  What the consumer returns lies inside of the buffer, whatever the producer wrote, then or meanwhile.
 */
#ifndef MESSAGECHANNEL_BYTE_RING_H
#define MESSAGECHANNEL_BYTE_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "pause.h"

/* After each store to shared memory, which it names.  Tests end a process there. */
#ifndef BYTE_RING_STEP
#define BYTE_RING_STEP(store) ((void)0)
#endif

#define BYTE_RING_SLEEPS ((uint64_t)1)
#define BYTE_RING_CLOSED ((uint64_t)2)
#define BYTE_RING_UNUSED ((uint64_t)4) /* always 0 */
#define BYTE_RING_POSITION (~(uint64_t)7)

#define BYTE_RING_LEAST_CAPACITY ((uint64_t)1 << 12)
#define BYTE_RING_MOST_CAPACITY ((uint64_t)1 << 32)

/* What both processes see.  In shared memory that starts as zeroes; all zeroes is an empty, open ring. */
typedef struct byte_ring {
    /* The producer's cache line. */
    /* position | flags.  Exchanged by the producer (release: the bytes before it, and `published`), loaded by the consumer
       (acquire), which adds BYTE_RING_SLEEPS by a compare-and-swap. */
    _Alignas(64) _Atomic(uint64_t) tail;
    /* Messages published, ever.  Stored before the tail, so never behind it. */
    _Atomic(uint64_t) published;
    /* The consumer's. */
    /* position | flags.  Exchanged by the consumer (release: its reads of the bytes before it come first), loaded by the
       producer (acquire), which adds BYTE_RING_SLEEPS by a compare-and-swap. */
    _Alignas(64) _Atomic(uint64_t) head;
    /* Messages taken, ever.  Stored before the head. */
    _Atomic(uint64_t) taken;
    /* The most messages that waited at any look of the consumer at the tail. */
    _Atomic(uint64_t) peak;
} byte_ring;

/* One side's own knowledge, in its process's private memory. */
typedef struct byte_ring_end {
    byte_ring *ring;
    unsigned char *bytes;     /* the buffer, aligned to 8 */
    uint64_t capacity;        /* its bytes: a power of two from 4096 to 2^32 */
    uint64_t position;        /* producer: written up to here, published or not.  consumer: read up to here */
    uint64_t shared;          /* producer: the tail, consumer: the head that it last stored, without BYTE_RING_SLEEPS */
    uint64_t seen;            /* the other side's position when last looked at */
} byte_ring_end;

/* The 8 bytes in front of each record. */
typedef struct byte_ring_record {
    uint32_t length;          /* bytes that follow, and then up to 7 until the next multiple of 8 */
    uint8_t kind;             /* BYTE_RING_PADDING ... */
    uint8_t tag;              /* the caller's */
    uint16_t count;           /* the caller's */
} byte_ring_record;

_Static_assert(sizeof(byte_ring_record) == sizeof(uint64_t), "a record's header is one word");

enum { BYTE_RING_PADDING = 0, BYTE_RING_WHOLE = 1 /* the caller's kinds follow, up to 255 */ };

/* What the calls return. */
enum {
    BYTE_RING_OK = 0,
    BYTE_RING_BELL = 1,       /* done, and the other side sleeps: ring its bell */
    BYTE_RING_EMPTY = -1,
    BYTE_RING_FULL = -2,
    BYTE_RING_SHUT = -3,      /* nothing is left, and the other side has closed */
    BYTE_RING_CORRUPT = -4,   /* the other side has written what it can't have; nothing of it was used */
};

/* ---- both sides ---- */
/* Longest record that a ring of that capacity takes: with half the capacity, header included, one fits into an empty
   ring wherever the position is. */
static inline uint32_t byte_ring_longest(const byte_ring_end *e)
{
    return (uint32_t)(e->capacity / 2 - sizeof(byte_ring_record));
}
/* Attaches a side where the other, or this side's former process, left off.  False for a capacity or positions that
   can't be.  What was skipped and not released comes again, what was not published never does. */
bool byte_ring_attach_producer(byte_ring_end *e, byte_ring *ring, void *bytes, uint64_t capacity);
bool byte_ring_attach_consumer(byte_ring_end *e, byte_ring *ring, void *bytes, uint64_t capacity);
/* Messages published and not yet taken; more than 0 only while the ring is not empty. */
uint64_t byte_ring_waiting(const byte_ring_end *e);

/* ---- producer ---- */
/* Room for a record of `length` bytes, at most byte_ring_longest; *room gets its address, and nothing is visible to
   anybody.  BYTE_RING_OK, BYTE_RING_FULL or BYTE_RING_CORRUPT.  Calling it again instead of committing is allowed. */
static inline int byte_ring_reserve(byte_ring_end *e, uint32_t length, void **room);
/* The longest record that byte_ring_reserve would have room for now, 0 for none; a look at the head if that is needed to
   have `wanted`.  A head that can't be gives no more room, and byte_ring_reserve tells of it. */
uint32_t byte_ring_room(byte_ring_end *e, uint32_t wanted);
/* Completes the record that was reserved last, which may have become shorter; still invisible. */
static inline void byte_ring_commit(byte_ring_end *e, uint32_t length, uint8_t kind, uint8_t tag, uint16_t count);
/* Makes all that was committed visible, with one exchange; `messages` were completed by it.  BYTE_RING_OK or _BELL. */
static inline int byte_ring_publish(byte_ring_end *e, uint64_t messages);
/* After BYTE_RING_FULL, and with everything published.  True: the producer sleeps, and the next release or close owes a
   bell.  False: the consumer has released since `seen`, or closed. */
bool byte_ring_arm_producer(byte_ring_end *e);
/* For ever.  What was not published never will be.  BYTE_RING_OK or _BELL. */
int byte_ring_close_producer(byte_ring_end *e);
static inline bool byte_ring_consumer_closed(const byte_ring_end *e)
{
    return (atomic_load_explicit(&e->ring->head, memory_order_relaxed) & BYTE_RING_CLOSED) != 0;
}

/* ---- consumer ---- */
/* The oldest record: *record gets a copy of its header and *payload its address inside of the buffer, valid until the
   release after the skip.  The other side may change the payload even then: look at it once, or copy it.  BYTE_RING_OK,
   _EMPTY, _SHUT or _CORRUPT.  Looks at the tail only when it knows of nothing. */
static inline int byte_ring_peek(byte_ring_end *e, byte_ring_record *record, const unsigned char **payload);
/* Has the processor fetch the record after next, while the caller still makes something of the one that was peeked. */
static inline void byte_ring_prefetch(const byte_ring_end *e, const byte_ring_record *record);
/* Goes beyond the record that was peeked. */
static inline void byte_ring_skip(byte_ring_end *e, const byte_ring_record *record);
/* Gives back the room of all that was skipped, with one exchange; `messages` were taken by it.  BYTE_RING_OK or _BELL. */
static inline int byte_ring_release(byte_ring_end *e, uint64_t messages);
/* After BYTE_RING_EMPTY, and with everything released.  BYTE_RING_OK: empty, and the next publish or close owes a bell.
   BYTE_RING_FULL: something is there.  BYTE_RING_SHUT. */
int byte_ring_arm_consumer(byte_ring_end *e);
/* For ever.  BYTE_RING_OK or _BELL. */
int byte_ring_close_consumer(byte_ring_end *e);

/* ---- the hot paths ---- */

/* Looks at the other side's word.  BYTE_RING_OK or _CORRUPT; of the tail also _EMPTY and _SHUT. */
int byte_ring_look_at_head(byte_ring_end *e);
int byte_ring_look_at_tail(byte_ring_end *e);

/* The bytes that a record takes. */
static inline uint64_t byte_ring_size(uint32_t length)
{
    return sizeof(byte_ring_record) + (((uint64_t)length + 7) & ~(uint64_t)7);
}

static inline uint64_t byte_ring_offset(const byte_ring_end *e)
{
    return e->position & (e->capacity - 1);
}

/* Bytes that are neither written nor waiting to be read, as far as is known. */
static inline uint64_t byte_ring_free(const byte_ring_end *e)
{
    return e->capacity - (e->position - e->seen);
}

static inline _Atomic(uint64_t) *byte_ring_header(const byte_ring_end *e)
{
    return (_Atomic(uint64_t) *)(void *)(e->bytes + byte_ring_offset(e));
}

/* Writes a header and goes beyond its record. */
static inline void byte_ring_append(byte_ring_end *e, byte_ring_record record)
{
    _Atomic(uint64_t) *header = byte_ring_header(e);
    uint64_t word;
    memcpy(&word, &record, sizeof word);
    /* Relaxed: the exchange that publishes releases it. */
    atomic_store_explicit(header, word, memory_order_relaxed);
    BYTE_RING_STEP(HEADER);
    e->position += byte_ring_size(record.length);
}

static inline int byte_ring_reserve(byte_ring_end *e, uint32_t length, void **room)
{
    uint64_t size = byte_ring_size(length), to_end = e->capacity - byte_ring_offset(e);
    uint64_t padding = to_end < size ? to_end : 0;
    if (byte_ring_free(e) < padding + size) {
        if (byte_ring_look_at_head(e) < 0)
            return BYTE_RING_CORRUPT;
        if (byte_ring_free(e) < padding + size)
            return BYTE_RING_FULL;
    }
    /* At once and not with the commit, which then need not know whether the record that it completes was to be padded. */
    if (padding)
        byte_ring_append(e, (byte_ring_record){.length = (uint32_t)(padding - sizeof(byte_ring_record))});
    *room = e->bytes + byte_ring_offset(e) + sizeof(byte_ring_record);
    return BYTE_RING_OK;
}

static inline void byte_ring_commit(byte_ring_end *e, uint32_t length, uint8_t kind, uint8_t tag, uint16_t count)
{
    byte_ring_append(e, (byte_ring_record){.length = length, .kind = kind, .tag = tag, .count = count});
}

/* Stores one of a side's two words, and tells whether the other side sleeps on it.  Release: see byte_ring.  Nothing need
   be acquired: who finds BYTE_RING_SLEEPS rings a bell, and reads nothing that the sleeper has written. */
static inline int byte_ring_store(_Atomic(uint64_t) *word, uint64_t value)
{
    return (atomic_exchange_explicit(word, value, memory_order_release) & BYTE_RING_SLEEPS) ? BYTE_RING_BELL : BYTE_RING_OK;
}

/* One writer: no need to be atomic as a whole. */
static inline void byte_ring_count(_Atomic(uint64_t) *counter, uint64_t more)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more, memory_order_relaxed);
}

static inline int byte_ring_publish(byte_ring_end *e, uint64_t messages)
{
    byte_ring_count(&e->ring->published, messages);
    BYTE_RING_STEP(PUBLISHED);
    e->shared = e->position | (e->shared & BYTE_RING_CLOSED);
    int outcome = byte_ring_store(&e->ring->tail, e->shared);
    BYTE_RING_STEP(TAIL);
    return outcome;
}

static inline int byte_ring_peek(byte_ring_end *e, byte_ring_record *record, const unsigned char **payload)
{
    for (;;) {
        if (e->position == e->seen) {
            int found = byte_ring_look_at_tail(e);
            if (found < 0)
                return found;
        }
        /* One load that the compiler can't repeat: what is checked is what is used (B6). */
        _Atomic(uint64_t) *header = byte_ring_header(e);
        uint64_t word = atomic_load_explicit(header, memory_order_relaxed);
        memcpy(record, &word, sizeof word);
        uint64_t size = byte_ring_size(record->length), to_end = e->capacity - byte_ring_offset(e);
        if (size > e->seen - e->position || size > to_end)
            return BYTE_RING_CORRUPT;
        if (record->kind != BYTE_RING_PADDING) {
            *payload = e->bytes + byte_ring_offset(e) + sizeof *record;
            return BYTE_RING_OK;
        }
        if (size != to_end)
            return BYTE_RING_CORRUPT;
        e->position += size;
    }
}

static inline void byte_ring_prefetch(const byte_ring_end *e, const byte_ring_record *record)
{
    /* In a stream one record is as long as the other. Processors follow by themselves what is longer than the most, and
       what is not published yet must stay with the producer. */
    enum { LINE = 64, MOST = 32 * LINE };
    uint64_t size = byte_ring_size(record->length), begin = e->position + 2 * size;
    uint64_t known = e->seen - begin;
    if (size < 2 * LINE || known > e->capacity)
        return;
    uint64_t end = begin + (size < MOST ? size : MOST);
    if (end - begin > known)
        end = e->seen;
    for (; begin < end; begin += LINE)
        prefetch(e->bytes + (begin & (e->capacity - 1)));
}

static inline void byte_ring_skip(byte_ring_end *e, const byte_ring_record *record)
{
    e->position += byte_ring_size(record->length);
}

static inline int byte_ring_release(byte_ring_end *e, uint64_t messages)
{
    byte_ring_count(&e->ring->taken, messages);
    BYTE_RING_STEP(TAKEN);
    e->shared = e->position | (e->shared & BYTE_RING_CLOSED);
    int outcome = byte_ring_store(&e->ring->head, e->shared);
    BYTE_RING_STEP(HEAD);
    return outcome;
}

#endif
