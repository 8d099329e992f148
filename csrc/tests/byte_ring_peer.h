/* byte_ring_peer: what the tests of the byte ring with two sides at once share: memory for it, bells on a socket pair, and
 * records whose every byte follows from their number. */
#ifndef MESSAGECHANNEL_BYTE_RING_PEER_H
#define MESSAGECHANNEL_BYTE_RING_PEER_H

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "byte_ring.h"
#include "check.h"

/* A ring and its buffer behind it. */
static inline byte_ring *peer_map(uint64_t capacity)
{
    void *memory = mmap(NULL, sizeof(byte_ring) + capacity, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

static inline void peer_unmap(byte_ring *r, uint64_t capacity)
{
    munmap(r, sizeof(byte_ring) + capacity);
}

static inline uint64_t peer_mix(uint64_t n)
{
    n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9u;
    n = (n ^ n >> 27) * 0x94d049bb133111ebu;
    return n ^ n >> 31;
}

/* Mostly short ones. */
static inline uint32_t peer_length(uint64_t n, uint32_t most)
{
    uint64_t h = peer_mix(n + 1);
    uint32_t below = h % 4 && most > 48 ? 48 : most;
    return (uint32_t)(h >> 32) % (below + 1);
}

static inline unsigned char peer_byte(uint64_t n, uint32_t i)
{
    return (unsigned char)(n * 37 + i + (i >> 8));
}

static inline byte_ring_record peer_record(uint64_t n, uint32_t length)
{
    return (byte_ring_record){.length = length, .kind = (uint8_t)(BYTE_RING_WHOLE + n % 255), .tag = (uint8_t)(n >> 8),
                              .count = (uint16_t)n};
}

static inline void peer_commit(byte_ring_end *e, uint64_t n, uint32_t length)
{
    byte_ring_record record = peer_record(n, length);
    byte_ring_commit(e, length, record.kind, record.tag, record.count);
}

static inline void peer_check(uint64_t n, uint32_t length, const byte_ring_record *record, const unsigned char *payload)
{
    byte_ring_record expected = peer_record(n, length);
    CHECK(memcmp(record, &expected, sizeof expected) == 0);
    for (uint32_t i = 0; i < length; i++)
        CHECK(payload[i] == peer_byte(n, i));
}

/* One end of a socket pair each, which ends with its process.  A bell that does not fit joins those that are there. */
static inline void peer_ring(int socket, int outcome)
{
    CHECK(outcome >= 0);
    if (outcome == BYTE_RING_BELL && send(socket, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1)
        CHECK(errno == EAGAIN || errno == EPIPE || errno == ECONNRESET);
}

/* False: the other side is no more. */
static inline bool peer_sleep(int socket)
{
    char bells[64];
    ssize_t n;
    while ((n = recv(socket, bells, sizeof bells, 0)) < 0)
        CHECK(errno == EINTR || errno == ECONNRESET);
    return n > 0;
}

#endif
