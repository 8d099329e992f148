/* Sockets and descriptors are POSIX. */
#define _GNU_SOURCE

#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "parker.h"
#include "shared_memory.h"

_Static_assert(sizeof(link_header) <= LINK_HEADER_BYTES, "the header fits into its page");

/* What a byte of the socket says. */
enum { BELL = 'b', DESCRIPTORS = 'd' };

/* No message is longer, whatever another process says: no memory is that large. */
#define LONGEST ((uint64_t)1 << 46)

/* Systems without them are told by options of the socket and the descriptors. */
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif
#ifndef MSG_CMSG_CLOEXEC
#define MSG_CMSG_CLOEXEC 0
#endif

/* ---- life ---- */

static void close_kept(int descriptor)
{
    int error = errno;
    if (descriptor >= 0)
        close(descriptor);
    errno = error;
}

static bool prepare_socket(int socket)
{
#ifdef SO_NOSIGPIPE
    int on = 1;
    if (setsockopt(socket, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on) < 0)
        return false;
#endif
    int flags = fcntl(socket, F_GETFL), type = 0;
    socklen_t type_size = sizeof type;
    struct sockaddr_storage name;
    socklen_t name_size = sizeof name;
    if (flags < 0 || getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &type_size) < 0
        || getsockname(socket, (struct sockaddr *)&name, &name_size) < 0)
        return false;
    if (type != SOCK_STREAM || name.ss_family != AF_UNIX) {
        errno = EPROTO;
        return false;
    }
    return fcntl(socket, F_SETFL, flags | O_NONBLOCK) >= 0 && fcntl(socket, F_SETFD, FD_CLOEXEC) >= 0;
}

static uint64_t new_id(void)
{
    static _Atomic(uint64_t) count;
    return ((uint64_t)getpid() << 40) ^ ((uint64_t)parker_now() << 8) ^ atomic_fetch_add(&count, 1);
}

static int arm(transport *t)
{
    return link_arm((far_link *)t);
}

static bool has_news(const transport *t)
{
    return link_has_news((const far_link *)t);
}

static bool has_room(const transport *t)
{
    const far_link *l = (const far_link *)t;
    return !link_is_deaf(l) && atomic_load_explicit(&link_ring_out(l)->taken, memory_order_relaxed) != l->credited;
}

static int64_t length(const transport *t)
{
    const far_link *l = (const far_link *)t;
    if (link_ended(l) || l->reserved)
        return -1;
    uint64_t waiting = link_waiting(l);
    return waiting == 0 && l->assembled ? 1 : (int64_t)waiting;
}

static void release_transport(transport *t)
{
    link_decref((far_link *)t);
}

static size_t collect(transport *t)
{
    return (size_t)link_collect((far_link *)t);
}

static bool arm_room(transport *t)
{
    return link_arm_credit((far_link *)t);
}

static bool is_deaf(const transport *t)
{
    return link_is_deaf((const far_link *)t);
}

static const transport_calls calls = {arm, has_news, has_room, collect, arm_room, is_deaf, length, release_transport};

static far_link *link_over(link_header *header, size_t size, int socket, int memory, uint32_t side)
{
    far_link *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->transport.calls = &calls;
    atomic_init(&l->references, 1);
    l->side = side;
    l->process = getpid();
    l->header = header;
    l->size = size;
    l->socket = socket;
    l->memory = memory;
    for (unsigned i = 0; i < LINK_SEGMENTS; i++)
        l->incoming[i].descriptor = l->outgoing[i].descriptor = -1;
    unsigned char *bytes = (unsigned char *)header + LINK_HEADER_BYTES;
    size_t capacity = (size - LINK_HEADER_BYTES) / 2;
    if (!byte_ring_attach_producer(&l->out, &header->ring[side ^ 1], bytes + capacity * (side ^ 1), capacity)
        || !byte_ring_attach_consumer(&l->in, &header->ring[side], bytes + capacity * side, capacity)) {
        free(l);
        errno = EPROTO;
        return NULL;
    }
    /* Who had this end before has turned all that was taken by then into room. */
    l->credited = atomic_load_explicit(&l->out.ring->taken, memory_order_relaxed);
    return l;
}

static void set_figures(byte_ring *r, const link_figures *f)
{
    atomic_init(&r->published, f->published);
    atomic_init(&r->taken, f->taken);
    atomic_init(&r->peak, f->peak);
}

far_link *link_new(int far[2])
{
    size_t size = LINK_HEADER_BYTES + 2 * LINK_RING_BYTES;
    int sockets[2] = {-1, -1}, here = -1, there = -1;
    link_header *header = NULL;
    far_link *l = NULL;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) < 0)
        return NULL;
    if (prepare_socket(sockets[0]) && prepare_socket(sockets[1]) && (here = shared_memory_new(size)) >= 0
        && (there = fcntl(here, F_DUPFD_CLOEXEC, 0)) >= 0 && (header = shared_memory_map(here, size)) != NULL) {
        header->magic = LINK_MAGIC;
        header->id = new_id();
        l = link_over(header, size, sockets[0], here, 0);
    }
    if (!l) {
        if (header)
            shared_memory_unmap(header, size);
        close_kept(sockets[0]);
        close_kept(sockets[1]);
        close_kept(here);
        close_kept(there);
        return NULL;
    }
    far[0] = sockets[1];
    far[1] = there;
    return l;
}

far_link *link_attach(int socket, int memory, uint32_t side)
{
    size_t size, capacity;
    link_header *header;
    far_link *l = NULL;
    if (!prepare_socket(socket) || fcntl(memory, F_SETFD, FD_CLOEXEC) < 0 || shared_memory_size(memory, &size) < 0)
        return NULL;
    capacity = size > LINK_HEADER_BYTES ? (size - LINK_HEADER_BYTES) / 2 : 0;
    if (side > 1 || capacity < LINK_HEADER_BYTES || (capacity & (capacity - 1)) != 0
        || size != LINK_HEADER_BYTES + 2 * capacity) {
        errno = EPROTO;
        return NULL;
    }
    header = shared_memory_map(memory, size);
    if (!header)
        return NULL;
    if (header->magic == LINK_MAGIC)
        l = link_over(header, size, socket, memory, side);
    else
        errno = EPROTO;
    if (!l) {
        int error = errno;
        shared_memory_unmap(header, size);
        errno = error;
    }
    return l;
}

void link_incref(far_link *l)
{
    atomic_fetch_add_explicit(&l->references, 1, memory_order_relaxed);
}

static void unmap_segment(link_segment *s)
{
    if (s->address)
        shared_memory_unmap(s->address, s->size);
    if (s->descriptor >= 0)
        close(s->descriptor);
    *s = (link_segment){.descriptor = -1};
}

/* Closes descriptors whose messages nobody takes any more, and gives segments back; of those that objects are over only
   the descriptors, and the last of the objects does the rest. `reading` is held, or the link is nobody's any more. */
static void close_rest(far_link *l)
{
    while (l->descriptor_count)
        close(l->descriptors[--l->descriptor_count]);
    for (unsigned i = 0; i < LINK_SEGMENTS; i++) {
        link_segment *s = &l->incoming[i];
        if (!s->held)
            unmap_segment(s);
        close_kept(s->descriptor);
        s->descriptor = -1;
    }
}

void link_decref(far_link *l)
{
    if (atomic_fetch_sub_explicit(&l->references, 1, memory_order_acq_rel) != 1)
        return;
    link_end(l, NULL);
    link_drop_segments(l);
    close_rest(l);
    free(l->descriptors);
    free(l->partial);
    free(l->spent);
    shared_memory_unmap(l->header, l->size);
    free(l);
}

bool link_end(far_link *l, int fds[2])
{
    spin_acquire(&l->writing);
    spin_acquire(&l->reading);
    int ends[2] = {l->socket, l->memory};
    l->socket = l->memory = -1;
    if (ends[0] >= 0 && !fds)
        close_rest(l);
    spin_release(&l->reading);
    spin_release(&l->writing);
    if (ends[0] < 0)
        return false;
    if (fds) {
        fds[0] = ends[0];
        fds[1] = ends[1];
    } else {
        close(ends[0]);
        close(ends[1]);
    }
    return true;
}

void link_abandon(far_link *l)
{
    /* Whoever held them is not here. */
    spin_release(&l->reading);
    spin_release(&l->writing);
    link_end(l, NULL);
}

void link_set_figures(far_link *l, const link_figures *to_here, const link_figures *to_there)
{
    set_figures(link_ring_in(l), to_here);
    set_figures(link_ring_out(l), to_there);
    l->credited = to_there->taken;
    l->taken_before = to_here->taken;
}

static void get_figures(const byte_ring *r, link_figures *f)
{
    f->taken = atomic_load_explicit(&r->taken, memory_order_relaxed);
    f->published = atomic_load_explicit(&r->published, memory_order_relaxed);
    f->peak = atomic_load_explicit(&r->peak, memory_order_relaxed);
}

void link_figures_in(const far_link *l, link_figures *f)
{
    get_figures(link_ring_in(l), f);
    /* It grows when somebody looks. */
    if (f->published - f->taken > f->peak && f->published >= f->taken) {
        f->peak = f->published - f->taken;
        atomic_store_explicit(&link_ring_in(l)->peak, f->peak, memory_order_relaxed);
    }
}

void link_figures_out(const far_link *l, link_figures *f)
{
    get_figures(link_ring_out(l), f);
}

bool link_restore(far_link *l, const link_segment *segments, const void *partial, uint64_t partial_length,
                  uint64_t partial_size, int assembled_tag, uint16_t assembled_count, const int *descriptors, size_t n)
{
    link_segment mapped[LINK_SEGMENTS];
    unsigned i = 0;
    if (partial_size > LONGEST || partial_length > partial_size
        || (assembled_tag >= 0 && partial_length != partial_size)) {
        errno = EPROTO;
        return false;
    }
    for (; i < LINK_SEGMENTS; i++) {
        mapped[i] = segments[i];
        mapped[i].address = NULL;
        if (segments[i].descriptor >= 0
            && (shared_memory_size(segments[i].descriptor, &mapped[i].size) < 0
                || !(mapped[i].address = shared_memory_map(segments[i].descriptor, mapped[i].size))))
            break;
    }
    unsigned char *bytes = partial_size ? malloc(partial_length ? (size_t)partial_length : 1) : NULL;
    int *kept = n ? malloc(n * sizeof(int)) : NULL;
    if (i < LINK_SEGMENTS || (partial_size && !bytes) || (n && !kept)) {
        int error = i < LINK_SEGMENTS ? errno : ENOMEM;
        while (i--)
            if (mapped[i].address)
                shared_memory_unmap(mapped[i].address, mapped[i].size);
        free(bytes);
        free(kept);
        errno = error;
        return false;
    }
    memcpy(l->incoming, mapped, sizeof mapped);
    if (bytes) {
        memcpy(bytes, partial, (size_t)partial_length);
        l->partial = bytes;
        l->partial_size = partial_size;
        l->partial_room = partial_length ? partial_length : 1;
        l->partial_length = partial_length;
        l->assembled = assembled_tag >= 0;
        l->partial_tag = (uint8_t)assembled_tag;
        l->partial_count = assembled_count;
    }
    if (kept) {
        memcpy(kept, descriptors, n * sizeof(int));
        l->descriptors = kept;
        l->descriptor_count = l->descriptor_room = n;
    }
    return true;
}

/* One of the locks is held, so the socket stays what it is. A socket that takes no bell has one that was not heard yet,
   or nobody to hear it. */
static void ring_bell(far_link *l)
{
    char byte = BELL;
    while (send(l->socket, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
}

/* One of the locks is held. The other side has written what it can't have: nothing more is read or written, and the end of
   the socket tells whoever listens to it. */
static void distrust(far_link *l)
{
    l->distrusted = l->dead = true;
    if (!link_ended(l))
        shutdown(l->socket, SHUT_RDWR);
}

/* ---- sending ---- */

size_t link_longest(const far_link *l)
{
    return byte_ring_longest(&l->out);
}

size_t link_post_many(far_link *l, ring *backlog, const link_piece *pieces, size_t n, int *outcome)
{
    size_t posted = 0;
    *outcome = LINK_OK;
    spin_acquire(&l->writing);
    if (link_ended(l) || link_is_deaf(l))
        *outcome = LINK_GONE;
    else if (backlog && !ring_is_armed(backlog))
        *outcome = LINK_BACKLOG;
    for (; *outcome == LINK_OK && posted < n; posted++) {
        const link_piece *p = &pieces[posted];
        void *room;
        int reserved = BYTE_RING_FULL;
        if (p->length <= link_longest(l))
            reserved = byte_ring_reserve(&l->out, (uint32_t)p->length, &room);
        if (reserved == BYTE_RING_CORRUPT)
            distrust(l);
        if (reserved != BYTE_RING_OK) {
            *outcome = LINK_FULL;
            break;
        }
        memcpy(room, p->payload ? p->payload : &p->value, p->length);
        byte_ring_commit(&l->out, (uint32_t)p->length, LINK_WHOLE, p->tag, 0);
    }
    if (posted && byte_ring_publish(&l->out, posted) == BYTE_RING_BELL)
        ring_bell(l);
    spin_release(&l->writing);
    return posted;
}

bool link_claim(far_link *l, ring *backlog)
{
    spin_acquire(&l->writing);
    bool claimed = ring_disarm(backlog);
    spin_release(&l->writing);
    return claimed;
}

int64_t link_write(far_link *l, uint8_t kind, uint8_t tag, uint16_t count, const uint64_t *prefix, const void *bytes,
                   size_t length, bool ends)
{
    /* A fragment of less than this is not worth a record. */
    enum { SHORTEST = 512 };
    size_t front = prefix ? sizeof *prefix : 0;
    void *room;
    int64_t written;
    spin_acquire(&l->writing);
    if (link_ended(l) || link_is_deaf(l)) {
        written = LINK_GONE;
    } else {
        uint32_t wanted = (uint32_t)(length + front < link_longest(l) ? length + front : link_longest(l));
        uint32_t fits = byte_ring_room(&l->out, wanted);
        if (fits < wanted && (ends || fits < SHORTEST)) {
            written = LINK_FULL;
        } else {
            uint32_t record = fits < wanted ? fits : wanted;
            if (byte_ring_reserve(&l->out, record, &room) != BYTE_RING_OK) {
                written = LINK_FULL;
            } else {
                if (front)
                    memcpy(room, prefix, front);
                memcpy((unsigned char *)room + front, bytes, record - front);
                byte_ring_commit(&l->out, record, kind, tag, count);
                if (byte_ring_publish(&l->out, ends && kind != LINK_DROP ? 1 : 0) == BYTE_RING_BELL)
                    ring_bell(l);
                written = (int64_t)(record - front);
            }
        }
    }
    spin_release(&l->writing);
    return written;
}

size_t link_send_descriptors(far_link *l, const int *descriptors, size_t n)
{
    size_t sent = 0;
    while (sent < n) {
        size_t some = n - sent < LINK_DESCRIPTORS ? n - sent : LINK_DESCRIPTORS;
        char byte = DESCRIPTORS;
        struct iovec one = {&byte, 1};
        union {
            struct cmsghdr header;
            char room[CMSG_SPACE(LINK_DESCRIPTORS * sizeof(int))];
        } control;
        memset(&control, 0, sizeof control);
        struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control.room,
                           .msg_controllen = CMSG_SPACE(some * sizeof(int))};
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(some * sizeof(int));
        memcpy(CMSG_DATA(&control.header), descriptors + sent, some * sizeof(int));
        ssize_t outcome;
        spin_acquire(&l->writing);
        do
            outcome = link_ended(l) ? (errno = EPIPE, -1) : sendmsg(l->socket, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (outcome < 0 && errno == EINTR);
        spin_release(&l->writing);
        if (outcome < 0)
            break;
        sent += some;
    }
    return sent;
}

bool link_arm_room(far_link *l)
{
    spin_acquire(&l->writing);
    /* The head that was too far back, not the one that is there now: what was released since then has rung no bell, and
       there may be nothing more to release. */
    bool armed = link_ended(l) || l->distrusted || byte_ring_arm_producer(&l->out);
    if (!armed && byte_ring_look_at_head(&l->out) != BYTE_RING_OK) {
        distrust(l);
        armed = true;
    }
    spin_release(&l->writing);
    return armed;
}

bool link_arm_credit(far_link *l)
{
    spin_acquire(&l->writing);
    bool armed = true;
    if (!link_ended(l) && !l->distrusted) {
        /* The head that is there now, whatever room it leaves. A copy, because `seen` is what the pump found too far back:
           if it moved on here, the pump would take the room that it has not looked at for none. */
        byte_ring_end now = l->out;
        if (byte_ring_look_at_head(&now) == BYTE_RING_OK)
            armed = byte_ring_arm_producer(&now);
        else
            distrust(l);
    }
    spin_release(&l->writing);
    return armed;
}

uint64_t link_written(far_link *l)
{
    spin_acquire(&l->writing);
    uint64_t written = l->out.position;
    spin_release(&l->writing);
    return written;
}

uint64_t link_collect(far_link *l)
{
    spin_acquire(&l->writing);
    uint64_t taken = atomic_load_explicit(&l->out.ring->taken, memory_order_acquire);
    uint64_t published = atomic_load_explicit(&l->out.ring->published, memory_order_relaxed);
    /* What the other side will never take needs no room any more. */
    uint64_t more = (link_is_deaf(l) ? published : taken) - l->credited;
    /* Whatever the other side says, it took no more than there was. */
    if (published - l->credited < more) {
        more = 0;
        distrust(l);
    }
    l->credited += more;
    spin_release(&l->writing);
    return more;
}

void link_close_out(far_link *l)
{
    spin_acquire(&l->writing);
    if (!link_ended(l) && byte_ring_close_producer(&l->out) == BYTE_RING_BELL)
        ring_bell(l);
    spin_release(&l->writing);
}

/* ---- segments of the sender ---- */

/* Whether it is there, and not much too large. */
static bool segment_fits(const link_segment *s, size_t size)
{
    return s->address && s->size >= size && s->size / 4 <= size;
}

bool link_may_lend(far_link *l, size_t size)
{
    bool may = true;
    spin_acquire(&l->writing);
    if (!link_ended(l) && !link_is_deaf(l)) {
        uint64_t lent = atomic_load_explicit(&l->header->lent_bytes[l->side ^ 1], memory_order_relaxed);
        /* Relaxed: a number. Who is to be told when it grows has armed the head, by whose release it is visible. */
        uint64_t taken = atomic_load_explicit(&l->header->taken_bytes[l->side ^ 1], memory_order_relaxed);
        uint64_t under_way = lent - taken;
        if (under_way > lent)
            /* Whatever the other side says, it took no more than there was. */
            distrust(l);
        else
            may = size == 0 || under_way == 0 || (under_way <= LINK_BUDGET && size <= LINK_BUDGET - under_way);
    }
    spin_release(&l->writing);
    return may;
}

/* The pooled segment that fits, or the one to put another in place of; NULL where all are lent, or would be larger in all
   than LINK_KEPT. */
static link_segment *choose_segment(far_link *l, size_t size)
{
    _Atomic(uint32_t) *lent = l->header->lent[l->side ^ 1];
    link_segment *chosen = NULL;
    size_t pooled = 0;
    for (unsigned i = 0; i < LINK_SEGMENTS; i++) {
        link_segment *s = &l->outgoing[i];
        pooled += s->size;
        if (atomic_load_explicit(&lent[i], memory_order_acquire))
            continue;
        if (segment_fits(s, size))
            return s;
        /* Rather than one that would have to go, take one that isn't there yet. */
        if (!chosen || (!s->address && chosen->address))
            chosen = s;
    }
    return chosen && pooled - chosen->size + size <= LINK_KEPT ? chosen : NULL;
}

int link_lend_segment(far_link *l, size_t size, void **address, int *descriptor)
{
    link_segment *s = choose_segment(l, size);
    *descriptor = -1;
    if (!s || !segment_fits(s, size)) {
        int memory = shared_memory_new(size);
        if (memory < 0)
            return -1;
        *address = shared_memory_map(memory, size);
        if (!*address) {
            close_kept(memory);
            return -1;
        }
        *descriptor = memory;
    }
    byte_ring_count(&l->header->lent_bytes[l->side ^ 1], size);
    if (!s)
        return LINK_ONCE;
    if (*descriptor >= 0) {
        unmap_segment(s);
        *s = (link_segment){.address = *address, .size = size, .descriptor = -1};
    }
    *address = s->address;
    s->used = parker_now();
    atomic_store_explicit(&l->header->lent[l->side ^ 1][s - l->outgoing], 1, memory_order_relaxed);
    return (int)(s - l->outgoing);
}

void link_recall_segment(far_link *l, int number, size_t size, bool is_new)
{
    byte_ring_count(&l->header->lent_bytes[l->side ^ 1], -(uint64_t)size);
    if (number == LINK_ONCE)
        return;
    /* One that the receiver knows stays what it was. */
    if (is_new)
        unmap_segment(&l->outgoing[number]);
    atomic_store_explicit(&l->header->lent[l->side ^ 1][number], 0, memory_order_relaxed);
}

bool link_trim(far_link *l, int64_t before)
{
    bool left = false, dropped = false;
    for (unsigned i = 0; i < LINK_SEGMENTS; i++) {
        link_segment *s = &l->outgoing[i];
        if (!s->address)
            continue;
        left = true;
        if (s->used > before || atomic_load_explicit(&l->header->lent[l->side ^ 1][i], memory_order_acquire)
            || link_write(l, LINK_DROP, (uint8_t)i, 0, NULL, "", 0, true) < 0)
            continue;
        /* The other side lets go of it when it comes to that record. */
        shared_memory_discard(s->address, s->size);
        unmap_segment(s);
        dropped = true;
    }
    if (dropped) {
        /* Also where nobody there waits for a message. */
        spin_acquire(&l->writing);
        if (!link_ended(l))
            ring_bell(l);
        spin_release(&l->writing);
    }
    return left;
}

void link_drop_segments(far_link *l)
{
    for (unsigned i = 0; i < LINK_SEGMENTS; i++)
        unmap_segment(&l->outgoing[i]);
}

/* ---- receiving; `reading` is held ---- */

static int hear(far_link *l)
{
    for (;;) {
        char byte;
        ssize_t got = recv(l->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return l->dead ? LINK_SHUT : LINK_OK;
        if (got <= 0) {
            l->dead = true;
            return LINK_SHUT;
        }
        if (byte != BELL && byte != DESCRIPTORS) {
            distrust(l);
            return LINK_SHUT;
        }
        if (byte == DESCRIPTORS) {
            int descriptors[LINK_DESCRIPTORS];
            size_t n = 0;
            struct iovec one = {&byte, 1};
            union {
                struct cmsghdr header;
                char room[CMSG_SPACE(LINK_DESCRIPTORS * sizeof(int))];
            } control;
            struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control.room,
                               .msg_controllen = sizeof control.room};
            if (l->descriptor_room - l->descriptor_count < LINK_DESCRIPTORS) {
                size_t room = 2 * l->descriptor_room + LINK_DESCRIPTORS;
                int *larger = realloc(l->descriptors, room * sizeof(int));
                if (!larger) {
                    errno = ENOMEM;
                    return LINK_TROUBLE;
                }
                l->descriptors = larger;
                l->descriptor_room = room;
            }
            /* Only a look: what this process has no room for stays where it is. */
            got = recvmsg(l->socket, &m, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
            if (got < 0 && (errno == EINTR || errno == EAGAIN))
                continue;
            if (got < 0)
                return LINK_TROUBLE;
            for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
                    size_t some = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                    memcpy(descriptors + n, CMSG_DATA(c), some * sizeof(int));
                    n += some;
                }
            }
            if (m.msg_flags & MSG_CTRUNC) {
                bool too_many = n == LINK_DESCRIPTORS;
                while (n)
                    close(descriptors[--n]);
                if (too_many) {
                    distrust(l);
                    return LINK_SHUT;
                }
                errno = EMFILE;
                return LINK_TROUBLE;
            }
            for (size_t i = 0; i < n; i++) {
                if (!MSG_CMSG_CLOEXEC)
                    fcntl(descriptors[i], F_SETFD, FD_CLOEXEC);
                l->descriptors[l->descriptor_count++] = descriptors[i];
            }
        }
        while (recv(l->socket, &byte, 1, MSG_DONTWAIT) < 0 && errno == EINTR)
            ;
    }
}

static void release(far_link *l, uint64_t messages)
{
    if (byte_ring_release(&l->in, messages) == BYTE_RING_BELL && !link_ended(l))
        ring_bell(l);
}

/* Has room for so many bytes of a message that arrives in fragments. No more than twice of what has come is taken from
   the system, whatever length was promised. */
static bool grow_partial(far_link *l, uint64_t size, uint64_t needed)
{
    if (l->partial && needed <= l->partial_room)
        return true;
    uint64_t room = 2 * needed < size ? 2 * needed : size;
    unsigned char *larger = realloc(l->partial, (size_t)room);
    if (!larger) {
        errno = ENOMEM;
        return false;
    }
    l->partial = larger;
    l->partial_room = room;
    return true;
}

/* Adds a fragment; LINK_OK, LINK_CORRUPT or LINK_TROUBLE. */
static int add_fragment(far_link *l, const byte_ring_record *record, const unsigned char *payload)
{
    uint64_t size = l->partial_size, before = l->partial_length;
    size_t length = record->length;
    if (record->kind == LINK_FIRST) {
        if (l->partial || length < sizeof size)
            return LINK_CORRUPT;
        memcpy(&size, payload, sizeof size);
        payload += sizeof size;
        length -= sizeof size;
        before = 0;
        if (size > LONGEST || size == 0)
            return LINK_CORRUPT;
    } else if (!l->partial) {
        return LINK_CORRUPT;
    }
    if (length > size - before || (record->kind == LINK_LAST && before + length != size))
        return LINK_CORRUPT;
    if (!grow_partial(l, size, before + length ? before + length : 1))
        return LINK_TROUBLE;
    memcpy(l->partial + before, payload, length);
    l->partial_size = size;
    l->partial_length = before + length;
    return LINK_OK;
}

/* Goes on to the next whole message: LINK_OK, with *m but for its descriptors, or why there is none. */
static int advance(far_link *l, link_message *m)
{
    for (;;) {
        const unsigned char *payload;
        int outcome;
        if (l->assembled) {
            *m = (link_message){.payload = l->partial, .length = (size_t)l->partial_size, .tag = l->partial_tag,
                                .count = l->partial_count, .assembled = true};
            return LINK_OK;
        }
        switch (byte_ring_peek(&l->in, &m->record, &payload)) {
        case BYTE_RING_OK:
            break;
        case BYTE_RING_SHUT:
            return LINK_SHUT;
        case BYTE_RING_EMPTY:
            return l->dead ? LINK_SHUT : LINK_EMPTY;
        default:
            return LINK_CORRUPT;
        }
        switch (m->record.kind) {
        case LINK_WHOLE:
            if (l->partial)
                return LINK_CORRUPT;
            byte_ring_prefetch(&l->in, &m->record);
            m->payload = payload;
            m->length = m->record.length;
            m->tag = m->record.tag;
            m->count = m->record.count;
            m->assembled = false;
            return LINK_OK;
        case LINK_DROP:
            if (m->record.tag >= LINK_SEGMENTS)
                return LINK_CORRUPT;
            if (!l->incoming[m->record.tag].held)
                unmap_segment(&l->incoming[m->record.tag]);
            break;
        case LINK_FIRST:
        case LINK_FRAGMENT:
        case LINK_LAST:
            outcome = add_fragment(l, &m->record, payload);
            if (outcome != LINK_OK)
                return outcome;
            if (m->record.kind == LINK_LAST) {
                l->assembled = true;
                l->partial_tag = m->record.tag;
                l->partial_count = m->record.count;
            }
            break;
        default:
            return LINK_CORRUPT;
        }
        byte_ring_skip(&l->in, &m->record);
        release(l, 0);
    }
}

/* ---- receiving ---- */

void link_begin(far_link *l)
{
    spin_acquire(&l->reading);
    l->taken = 0;
}

static void drop_spent(far_link *l)
{
    free(l->spent);
    l->spent = NULL;
}

int link_next(far_link *l, link_message *m)
{
    drop_spent(l);
    int outcome = link_ended(l) ? LINK_GONE : advance(l, m);
    if (outcome == LINK_OK && m->count > l->descriptor_count) {
        outcome = hear(l);
        if (outcome != LINK_TROUBLE)
            /* They are sent before the message is. */
            outcome = m->count > l->descriptor_count ? LINK_CORRUPT : LINK_OK;
    }
    return outcome;
}

void link_take(far_link *l, const link_message *m, int *descriptors)
{
    if (m->count) {
        memcpy(descriptors, l->descriptors, m->count * sizeof(int));
        l->descriptor_count -= m->count;
        memmove(l->descriptors, l->descriptors + m->count, l->descriptor_count * sizeof(int));
    }
    if (m->assembled) {
        l->spent = l->partial;
        l->partial = NULL;
        l->assembled = false;
    } else {
        byte_ring_skip(&l->in, &m->record);
    }
    l->taken++;
}

void link_finish(far_link *l)
{
    drop_spent(l);
    if (l->taken)
        release(l, l->taken);
    spin_release(&l->reading);
}

void link_taken_before(far_link *l, uint64_t popped)
{
    spin_acquire(&l->reading);
    if (!link_ended(l) && popped > l->taken_before) {
        release(l, popped - l->taken_before);
        l->taken_before = popped;
    }
    spin_release(&l->reading);
}

void link_told_before(far_link *l, uint64_t pushed)
{
    spin_acquire(&l->reading);
    l->taken_before = pushed;
    spin_release(&l->reading);
}

int link_arm(far_link *l)
{
    link_message m;
    spin_acquire(&l->reading);
    int outcome = RING_NOT_EMPTY;
    if (!link_ended(l) && advance(l, &m) == LINK_EMPTY && byte_ring_arm_consumer(&l->in) == BYTE_RING_OK)
        outcome = RING_ARMED;
    spin_release(&l->reading);
    return outcome;
}

int link_hear(far_link *l)
{
    spin_acquire(&l->reading);
    int outcome = link_ended(l) ? LINK_GONE : hear(l);
    int error = errno;
    spin_release(&l->reading);
    errno = error;
    return outcome;
}

bool link_reserve_in(far_link *l)
{
    spin_acquire(&l->reading);
    bool first = !l->reserved;
    l->reserved = true;
    spin_release(&l->reading);
    return first;
}

void link_yield_in(far_link *l)
{
    spin_acquire(&l->reading);
    l->reserved = false;
    spin_release(&l->reading);
}

void link_close_in(far_link *l)
{
    spin_acquire(&l->reading);
    if (!link_ended(l) && byte_ring_close_consumer(&l->in) == BYTE_RING_BELL)
        ring_bell(l);
    spin_release(&l->reading);
}

void *link_borrow_segment(far_link *l, unsigned number, size_t size, int descriptor, size_t *mapped)
{
    link_segment new = {.descriptor = descriptor};
    link_segment *s = number < LINK_SEGMENTS ? &l->incoming[number] : &new;
    if (number > LINK_ONCE || size == 0 || s->held || (s == &new && descriptor < 0)) {
        errno = EPROTO;
        return NULL;
    }
    if (descriptor >= 0) {
        if (shared_memory_size(descriptor, &new.size) < 0)
            return NULL;
        new.address = shared_memory_map(descriptor, new.size);
        if (!new.address)
            return NULL;
    }
    if (size > (new.address ? new.size : s->size)) {
        if (new.address)
            shared_memory_unmap(new.address, new.size);
        errno = EPROTO;
        return NULL;
    }
    if (s == &new) {
        close(descriptor);
    } else if (new.address) {
        unmap_segment(s);
        *s = new;
    }
    s->held = true;
    link_incref(l);
    *mapped = s->size;
    return s->address;
}

void link_return_segment(far_link *l, unsigned number, void *address, size_t mapped)
{
    if (number == LINK_ONCE) {
        shared_memory_unmap(address, mapped);
    } else {
        link_segment *s = &l->incoming[number];
        spin_acquire(&l->reading);
        s->held = false;
        /* While there is a descriptor, the port may be about to move on with it. */
        if (link_ended(l) && s->descriptor < 0)
            unmap_segment(s);
        spin_release(&l->reading);
        /* In a forked child goes a copy of the object, not the object. */
        if (l->process == getpid())
            atomic_store_explicit(&l->header->lent[l->side][number], 0, memory_order_release);
    }
    link_decref(l);
}

void link_count_borrowed(far_link *l, uint64_t bytes)
{
    if (bytes)
        byte_ring_count(&l->header->taken_bytes[l->side], bytes);
}
