/* link: what leads from a channel to a port in another process.
 *
 * Two processes share one object of memory, a header and two byte rings (byte_ring.h), and the two ends of one socket.
 * The memory carries the messages. The socket carries what memory can't: a bell for whoever sleeps, descriptors, and
 * the news of a death, because the kernel closes it with the process. Neither has a name, so neither can be left
 * behind.
 *
 *     channel ── link ══ header | ring to side 0 | ring to side 1 ══ link ── channel
 *                   └──────────── socket, one byte a message ────────┘
 *
 * Side i reads ring i and writes the other. A port that is transferred to a third process takes both descriptors along,
 * and the positions are in the memory, so the new owner goes on where the old one stopped; nothing is relayed.
 *
 * It is a transport (channel.h) for whoever waits at an endpoint.
 *
 * Threads. `writing` guards what is about sending, `reading` what is about receiving, and whoever ends the link has both,
 * in that order; an endpoint's lock comes before them. They are held for a few instructions, a copy into or out of the
 * ring, or one system call that does not wait. The memory stays mapped until the link is freed, so that figures and news
 * may be looked at without a lock.
 */
#ifndef MESSAGECHANNEL_LINK_H
#define MESSAGECHANNEL_LINK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "byte_ring.h"
#include "channel.h"
#include "lock.h"
#include "ring.h"

/* Bytes of one direction's ring. Large enough that a stream does not stop and go: it takes a batch of 256 messages of
   1 KiB, and as much again while that is being taken. Pages that no message touched cost nothing. */
#define LINK_RING_BYTES ((size_t)512 * 1024)
#define LINK_HEADER_BYTES ((size_t)4096)
#define LINK_MAGIC UINT64_C(0x6d63686c696e6b31)
/* Segments that a direction keeps for reuse, of LINK_KEPT bytes in all. Instead of the number of one, a message may
   have LINK_ONCE, for a segment that is used once, or LINK_INLINE, for bytes that are in the message itself. */
#define LINK_SEGMENTS 4u
#define LINK_ONCE LINK_SEGMENTS
#define LINK_INLINE (LINK_SEGMENTS + 1)
/* Bytes of a direction's segments that are on their way: lent, and not yet taken by the receiver. To copy so much takes a
   hundred times as long as to wake somebody, so that a stream of large messages does not stop and go. */
#define LINK_BUDGET ((size_t)64 << 20)
/* One that is on its way, and one that the receiver still uses: new pages cost more than to copy what goes into them. */
#define LINK_KEPT (2 * LINK_BUDGET)
/* Descriptors that one byte of the socket carries; the kernel's limit is 253. */
#define LINK_DESCRIPTORS 128u

/* Kinds of records. A message that is longer than a record is a first fragment, which starts with the length of the
   whole as 64 bits, any number of fragments, and a last one, whose tag and count are the message's. */
enum {
    LINK_WHOLE = BYTE_RING_WHOLE,
    LINK_FIRST = 2,
    LINK_FRAGMENT = 3,
    LINK_LAST = 4,
    /* No message: the segment with the number in `tag` is no more. */
    LINK_DROP = 5,
};

/* What the calls return. */
enum {
    LINK_OK = 0,
    LINK_EMPTY = -1,
    LINK_FULL = -2,     /* no room in the ring now */
    LINK_BACKLOG = -3,  /* others are before: what is posted goes behind them */
    LINK_GONE = -4,     /* this end was closed or moved, or the other one takes no more */
    LINK_SHUT = -5,     /* drained, and the other side has closed or is dead */
    LINK_CORRUPT = -6,  /* the other side has written what it can't have */
    LINK_TROUBLE = -7,  /* errno says why not now; nothing was changed */
};

/* A message to be posted. */
typedef struct link_piece {
    const void *payload; /* NULL: the eight bytes in `value`, or as many of them as there are */
    size_t length;
    uint64_t value;
    uint8_t tag;
} link_piece;

/* Messages that were ever posted into one direction and taken out of it, and the most that waited. */
typedef struct link_figures {
    uint64_t published, taken, peak;
} link_figures;

typedef struct link_header {
    uint64_t magic;
    uint64_t id;
    byte_ring ring[2];
    /* 1 while the receiver has objects over the segment: stored by the sender before it publishes the record that lends
       the segment, cleared by the receiver (release) when the last of them is gone (acquire). By the reading side. */
    _Atomic(uint32_t) lent[2][LINK_SEGMENTS];
    /* Bytes of segments that were ever lent, by the sender; and of those that came with messages which were ever taken, by
       the receiver, before it releases their records. By the reading side. */
    _Atomic(uint64_t) lent_bytes[2], taken_bytes[2];
} link_header;

/* A piece of shared memory for one large buffer, as the side that sends or receives knows it. */
typedef struct link_segment {
    void *address;  /* NULL: there is none */
    size_t size;
    int descriptor; /* the receiver's, to take along when the port moves on; -1 */
    bool held;      /* by objects here */
    int64_t used;   /* when it was last lent, by the sender's clock */
} link_segment;

typedef struct far_link {
    transport transport;
    /* Of the channel, and of each segment that objects are over. */
    _Atomic(size_t) references;
    uint32_t side;
    link_header *header;
    size_t size;
    /* Whose the objects over segments are; a forked child is another one. */
    int64_t process;
    /* Under `writing` and `reading`; -1 once the link has ended here. */
    int socket, memory;

    spin_lock writing;
    /* out.seen moves on only where a record is written, or found to have no room, and in link_arm_room: so what the pump
       arms is the head that it found too far back, whoever else looks at the head meanwhile. */
    byte_ring_end out;
    /* How many of the messages that the other side has taken were turned into room. */
    uint64_t credited;
    link_segment outgoing[LINK_SEGMENTS];

    spin_lock reading;
    byte_ring_end in;
    /* The message that arrives in fragments. */
    unsigned char *partial;
    uint64_t partial_size, partial_length, partial_room;
    /* It is all here, and these are of its last record. */
    _Atomic(bool) assembled;
    uint8_t partial_tag;
    uint16_t partial_count;
    /* Descriptors that came and whose record was not taken yet, oldest first. */
    int *descriptors;
    size_t descriptor_count, descriptor_room;
    /* The socket has ended; whoever spins looks at it without the lock. */
    _Atomic(bool) dead;
    /* It was ended here, because the other side has written what it can't have. */
    _Atomic(bool) distrusted;
    /* Messages that were ever taken out of the channel's own inbox, as far as the other side was told of them. */
    uint64_t taken_before;
    /* Taken since link_begin, and a message that was assembled and taken. */
    uint64_t taken;
    unsigned char *spent;
    _Atomic(bool) reserved;
    link_segment incoming[LINK_SEGMENTS];
} far_link;

/* A message in the ring, or one that was put together. */
typedef struct link_message {
    const unsigned char *payload;
    size_t length;
    uint8_t tag;
    uint16_t count; /* descriptors that it comes with */
    bool assembled;
    byte_ring_record record;
} link_message;

/* A new pair; this process is side 0. far[0] and far[1] are the socket and the memory for side 1, the caller's to send
   and to close. NULL with errno set. */
far_link *link_new(int far[2]);
/* What the channel has counted before it had a link; before anybody else has the link. */
void link_set_figures(far_link *l, const link_figures *to_here, const link_figures *to_there);
/* The end whose descriptors came from elsewhere. They are the link's from then on; with NULL, and errno, they are still
   the caller's. EPROTO: this is not a link's memory. */
far_link *link_attach(int socket, int memory, uint32_t side);
void link_incref(far_link *l);
/* Ends the link and unmaps the memory with the last reference. */
void link_decref(far_link *l);
/* Gives the descriptors up without a word to the other side: closes them, or hands its own two over in fds[2] if that is
   not NULL, and the others stay until the caller has taken them or the link goes. False when the link had ended before. */
bool link_end(far_link *l, int fds[2]);
/* In a forked child, where the thread is not that may have held a lock: gives the descriptors up, which are copies. */
void link_abandon(far_link *l);
/* The other side has written what it can't have. */
static inline bool link_is_distrusted(const far_link *l)
{
    return l->distrusted;
}
static inline bool link_ended(const far_link *l)
{
    return l->socket < 0;
}
/* The same number on both sides, and on no other link of this machine. */
static inline uint64_t link_id(const far_link *l)
{
    return l->header->id;
}
static inline byte_ring *link_ring_out(const far_link *l)
{
    return &l->header->ring[l->side ^ 1];
}
static inline byte_ring *link_ring_in(const far_link *l)
{
    return &l->header->ring[l->side];
}
void link_figures_in(const far_link *l, link_figures *f);
void link_figures_out(const far_link *l, link_figures *f);
/* What this side's former process held for it: segments, the beginning of a message (assembled_tag is -1 unless all of it
   is there), and descriptors, which are the link's then, as those of the segments are. Before anybody else has the link.
   False, and nothing was taken over, without memory (ENOMEM), or for what can't be (EPROTO, EINVAL). */
bool link_restore(far_link *l, const link_segment *segments, const void *partial, uint64_t partial_length,
                  uint64_t partial_size, int assembled_tag, uint16_t assembled_count, const int *descriptors, size_t n);

/* ---- sending ---- */

/* Writes messages and tells the other side of them at once, as far as they fit, if nothing waits in `backlog`, which is
   armed (ring_arm) when that is so; NULL from the pump, which is the first in line. Returns how many went in; *outcome is
   about the next: LINK_OK, LINK_FULL, LINK_BACKLOG, LINK_GONE. */
size_t link_post_many(far_link *l, ring *backlog, const link_piece *pieces, size_t n, int *outcome);
/* Has all posts go to the backlog, if none do yet: the caller, and nobody else, may link_write until it arms the
   backlog again. */
bool link_claim(far_link *l, ring *backlog);
/* Writes one record of up to `length` bytes, a message's end if `ends`. Returns how many bytes went in, or a negative
   outcome: LINK_FULL, LINK_GONE. `prefix` are 8 bytes in front of the others, or NULL. A record that isn't an end may
   be shorter than asked for. */
int64_t link_write(far_link *l, uint8_t kind, uint8_t tag, uint16_t count, const uint64_t *prefix, const void *bytes,
                   size_t length, bool ends);
/* The longest record that fits at all. */
size_t link_longest(const far_link *l);
/* Sends descriptors; returns how many went, fewer than `n` with errno set: EAGAIN, ETOOMANYREFS ... */
size_t link_send_descriptors(far_link *l, const int *descriptors, size_t n);
/* True: the next message that the other side takes, or its end, rings here, or there is an end already, of which all who
   wait are told. False: look again. The first is for the pump, which has just found the ring full: false, when there is
   more room by now. The second is for who waits until messages are taken, and looks at link_collect afterwards; it tells
   nothing of room, and the pump finds that as it was. */
bool link_arm_room(far_link *l);
bool link_arm_credit(far_link *l);
/* Bytes that were ever written. */
uint64_t link_written(far_link *l);
/* Messages that the other side has taken since the last call; all that there are, once it takes no more. */
uint64_t link_collect(far_link *l);
/* Nothing more will be written. */
void link_close_out(far_link *l);
/* Whether the other side takes nothing any more. */
static inline bool link_is_deaf(const far_link *l)
{
    return l->dead || byte_ring_consumer_closed(&l->out);
}

/* Whether a message may be lent `size` bytes of segments now, within LINK_BUDGET; it always may when there is nothing on
   its way, and when nobody will take it. False: wait (link_arm_credit) until the other side takes something. This and
   the next four are for who has claimed the backlog. */
bool link_may_lend(far_link *l, size_t size);
/* Memory for a large buffer. Returns the segment's number or LINK_ONCE, whose memory is the caller's to unmap; -1 with
   errno. *descriptor is to be sent with the message, or -1 where the other side has it. */
int link_lend_segment(far_link *l, size_t size, void **address, int *descriptor);
/* What was lent, with a descriptor if it is new, is not sent after all. */
void link_recall_segment(far_link *l, int number, size_t size, bool is_new);
/* Gives back the memory of segments that were not used since `before`; true when one is left to be looked at later. */
bool link_trim(far_link *l, int64_t before);
/* Gives back the memory of all segments: nothing more will be sent. */
void link_drop_segments(far_link *l);

/* ---- receiving ---- */

/* Messages are taken between link_begin and link_finish, in which `reading` is held: any number by turns of link_next
   and link_take. */
void link_begin(far_link *l);
/* The oldest message, which stays until link_take. LINK_EMPTY, LINK_SHUT, LINK_CORRUPT, LINK_GONE, LINK_TROUBLE (no
   memory, or no room for the descriptors: errno). */
int link_next(far_link *l, link_message *m);
/* Takes it; its descriptors, m->count of them, go to `descriptors`. The payload stays where it is until link_finish, or
   until link_next if it was assembled. */
void link_take(far_link *l, const link_message *m, int *descriptors);
/* Tells the other side of what was taken. */
void link_finish(far_link *l);
/* So many messages were ever taken out of the channel's own inbox, which has what arrived before the channel was linked:
   tells the other side of those that it was not told of. Any thread, any number of times. */
void link_taken_before(far_link *l, uint64_t popped);
/* So many need not be told of: what was taken out of the ring counts as taken, and was put into the inbox. */
void link_told_before(far_link *l, uint64_t pushed);
/* RING_ARMED: nothing is there, and what comes next rings. RING_NOT_EMPTY: there is a message, an end, or trouble. */
int link_arm(far_link *l);
static inline bool link_has_news(const far_link *l)
{
    const byte_ring *r = link_ring_in(l);
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    return ((tail ^ head) & BYTE_RING_POSITION) != 0 || (tail & BYTE_RING_CLOSED) != 0 || l->dead;
}
/* Whether what comes next will ring. */
static inline bool link_is_armed(const far_link *l)
{
    return (atomic_load_explicit(&link_ring_in(l)->tail, memory_order_relaxed) & BYTE_RING_SLEEPS) != 0;
}
static inline uint64_t link_waiting(const far_link *l)
{
    return byte_ring_waiting(&l->in);
}
/* Reads the socket: bells, descriptors, the end. LINK_OK, LINK_SHUT once the other side is dead or has gone,
   LINK_GONE, LINK_TROUBLE with errno EMFILE and the like: descriptors are there that this process has no room for. */
int link_hear(far_link *l);
/* The other side's messages go nowhere from here on. */
void link_close_in(far_link *l);
/* Whether the other side has closed or is dead; messages may still be there. */
static inline bool link_has_ended_there(const far_link *l)
{
    return l->dead || (atomic_load_explicit(&link_ring_in(l)->tail, memory_order_acquire) & BYTE_RING_CLOSED) != 0;
}
/* From here on the caller alone takes messages; all others are to look (link_is_reserved) after link_begin. True for
   the one call that did it. */
bool link_reserve_in(far_link *l);
/* He gives it up again. */
void link_yield_in(far_link *l);
static inline bool link_is_reserved(const far_link *l)
{
    return l->reserved;
}

/* The memory of a segment that came with a message that was just taken, `reading` held. A descriptor of 0 or more is
   the link's then. NULL with errno, EPROTO for one that can't be, and the descriptor is still the caller's. Whoever has
   the memory calls link_return_segment, with the same number and what *mapped got. */
void *link_borrow_segment(far_link *l, unsigned number, size_t size, int descriptor, size_t *mapped);
void link_return_segment(far_link *l, unsigned number, void *address, size_t mapped);
/* So many bytes of segments have come with the message that was just taken, `reading` held. */
void link_count_borrowed(far_link *l, uint64_t bytes);

#endif
