/* The byte ring in one thread that plays both sides: what each call promises. */
#include <string.h>

#include "byte_ring.h"
#include "check.h"

enum { CAPACITY = 4096, HEADER = sizeof(byte_ring_record) };

static byte_ring ring;
static _Alignas(8) unsigned char bytes[CAPACITY];
static byte_ring_end producer, consumer;

/* An empty, open ring whose positions are `start`. */
static void begin_at(uint64_t start)
{
    memset(&ring, 0, sizeof ring);
    atomic_store(&ring.tail, start);
    atomic_store(&ring.head, start);
    memset(bytes, 0xff, sizeof bytes);
    CHECK(byte_ring_attach_producer(&producer, &ring, bytes, CAPACITY));
    CHECK(byte_ring_attach_consumer(&consumer, &ring, bytes, CAPACITY));
}

/* Record n has `length` bytes of value n. */
static void write_record(size_t n, uint32_t length)
{
    void *room;
    CHECK(byte_ring_reserve(&producer, length, &room) == BYTE_RING_OK);
    memset(room, (int)(n % 251), length);
    byte_ring_commit(&producer, length, BYTE_RING_WHOLE, (uint8_t)n, (uint16_t)n);
}

static void expect_record(size_t n, uint32_t length)
{
    byte_ring_record record;
    const unsigned char *payload;
    CHECK(byte_ring_peek(&consumer, &record, &payload) == BYTE_RING_OK);
    CHECK(record.length == length && record.kind == BYTE_RING_WHOLE);
    CHECK(record.tag == (uint8_t)n && record.count == (uint16_t)n);
    CHECK(payload >= bytes && payload + length <= bytes + CAPACITY);
    for (uint32_t i = 0; i < length; i++)
        CHECK(payload[i] == n % 251);
    byte_ring_skip(&consumer, &record);
}

static int peek(void)
{
    byte_ring_record record;
    const unsigned char *payload;
    return byte_ring_peek(&consumer, &record, &payload);
}

static void records_of_any_length_arrive_in_order(void)
{
    uint32_t longest = CAPACITY / 2 - HEADER;
    begin_at(0);
    CHECK(byte_ring_longest(&producer) == longest);
    for (uint32_t length = 0; length <= longest; length++) {
        write_record(length, length);
        CHECK(peek() == BYTE_RING_EMPTY);
        CHECK(byte_ring_publish(&producer, 1) == BYTE_RING_OK);
        expect_record(length, length);
        CHECK(peek() == BYTE_RING_EMPTY);
        CHECK(byte_ring_release(&consumer, 1) == BYTE_RING_OK);
    }
}

int main(void)
{
    records_of_any_length_arrive_in_order();
    return 0;
}
