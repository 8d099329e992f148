/* The byte ring in one thread that plays both sides: what each call promises, at every offset in the buffer. */
#include <string.h>

#include "byte_ring.h"
#include "check.h"

enum { CAPACITY = 4096, HEADER = sizeof(byte_ring_record), LONGEST = CAPACITY / 2 - HEADER, GUARD = 64 };

static byte_ring ring;
static _Alignas(8) unsigned char guarded[GUARD + CAPACITY + GUARD];
static unsigned char *const bytes = guarded + GUARD;
static byte_ring_end producer, consumer;

static void attach(void)
{
    CHECK(byte_ring_attach_producer(&producer, &ring, bytes, CAPACITY));
    CHECK(byte_ring_attach_consumer(&consumer, &ring, bytes, CAPACITY));
}

/* An empty, open ring both of whose positions are `start`. */
static void begin_at(uint64_t start)
{
    memset(&ring, 0, sizeof ring);
    memset(guarded, 0xee, sizeof guarded);
    atomic_store(&ring.tail, start);
    atomic_store(&ring.head, start);
    attach();
}

static void check_guards(void)
{
    for (int i = 0; i < GUARD; i++)
        CHECK(guarded[i] == 0xee && guarded[GUARD + CAPACITY + i] == 0xee);
}

/* Record n has `length` bytes of value n % 251. */
static void fill(size_t n, uint32_t length, void *room)
{
    CHECK((unsigned char *)room >= bytes + HEADER && (unsigned char *)room + length <= bytes + CAPACITY);
    memset(room, (int)(n % 251), length);
    byte_ring_commit(&producer, length, (uint8_t)(BYTE_RING_WHOLE + n % 255), (uint8_t)n, (uint16_t)n);
}

static void write_record(size_t n, uint32_t length)
{
    void *room;
    CHECK(byte_ring_reserve(&producer, length, &room) == BYTE_RING_OK);
    fill(n, length, room);
}

static int publish(void)
{
    return byte_ring_publish(&producer, 1);
}

static void send(size_t n, uint32_t length)
{
    write_record(n, length);
    CHECK(publish() == BYTE_RING_OK);
}

static bool fits(uint32_t length)
{
    void *room;
    int found = byte_ring_reserve(&producer, length, &room);
    CHECK(found == BYTE_RING_OK || found == BYTE_RING_FULL);
    return found == BYTE_RING_OK;
}

static void expect_record(size_t n, uint32_t length)
{
    byte_ring_record record;
    const unsigned char *payload;
    CHECK(byte_ring_peek(&consumer, &record, &payload) == BYTE_RING_OK);
    CHECK(record.length == length && record.kind == BYTE_RING_WHOLE + n % 255);
    CHECK(record.tag == (uint8_t)n && record.count == (uint16_t)n);
    CHECK(payload >= bytes + HEADER && payload + length <= bytes + CAPACITY);
    for (uint32_t i = 0; i < length; i++)
        CHECK(payload[i] == n % 251);
    byte_ring_skip(&consumer, &record);
}

static int release(void)
{
    return byte_ring_release(&consumer, 1);
}

static void receive(size_t n, uint32_t length)
{
    expect_record(n, length);
    CHECK(release() == BYTE_RING_OK);
}

static int peek(void)
{
    byte_ring_record record;
    const unsigned char *payload;
    return byte_ring_peek(&consumer, &record, &payload);
}

static uint64_t tail(void)
{
    return atomic_load(&ring.tail);
}

static uint64_t head(void)
{
    return atomic_load(&ring.head);
}

/* ---- records ---- */

static void all_zeroes_is_an_empty_open_ring(void)
{
    memset(&ring, 0, sizeof ring);
    attach();
    CHECK(peek() == BYTE_RING_EMPTY);
    CHECK(byte_ring_waiting(&consumer) == 0 && !byte_ring_consumer_closed(&producer));
    CHECK(byte_ring_longest(&producer) == LONGEST);
    CHECK(fits(LONGEST));
}

static void records_of_any_length_arrive(void)
{
    begin_at(0);
    for (uint32_t length = 0; length <= LONGEST; length++) {
        write_record(length, length);
        CHECK(peek() == BYTE_RING_EMPTY);
        CHECK(publish() == BYTE_RING_OK);
        receive(length, length);
        CHECK(peek() == BYTE_RING_EMPTY);
    }
    check_guards();
}

/* Also where positions run beyond 2^64. */
static void a_record_that_would_cross_the_end_goes_to_the_beginning(void)
{
    static const uint32_t lengths[] = {0, 1, 7, 8, 9, 16, 100, 1000, LONGEST - 8, LONGEST - 1, LONGEST};
    for (uint64_t at = 0; at < CAPACITY; at += 8) {
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            void *room;
            uint64_t size = byte_ring_size(lengths[i]);
            begin_at(at - CAPACITY);
            CHECK(byte_ring_reserve(&producer, lengths[i], &room) == BYTE_RING_OK);
            CHECK(room == bytes + (at + size <= CAPACITY ? at : 0) + HEADER);
            fill(i, lengths[i], room);
            CHECK(publish() == BYTE_RING_OK);
            CHECK(tail() - head() == (at + size <= CAPACITY ? size : CAPACITY - at + size));
            receive(i, lengths[i]);
            send(i + 1, 3);
            receive(i + 1, 3);
            CHECK(peek() == BYTE_RING_EMPTY && head() == tail());
            check_guards();
        }
    }
}

static void a_ring_is_full_to_the_last_byte(void)
{
    for (uint64_t at = 0; at < CAPACITY; at += 8) {
        size_t n = 0;
        begin_at(at);
        /* Records of 32 bytes; a shorter one up to the end, where 32 do not fit. */
        while (tail() - head() < CAPACITY) {
            uint64_t to_end = CAPACITY - tail() % CAPACITY, left = CAPACITY - (tail() - head());
            uint64_t size = to_end < 32 ? to_end : 32;
            size = left < size ? left : size;
            send(n++, (uint32_t)(size - HEADER));
        }
        CHECK(!fits(0) && byte_ring_room(&producer, 0) == 0);
        byte_ring_record first;
        const unsigned char *payload;
        CHECK(byte_ring_peek(&consumer, &first, &payload) == BYTE_RING_OK);
        expect_record(0, first.length);
        CHECK(!fits(0));
        CHECK(release() == BYTE_RING_OK);
        CHECK(!fits(first.length + 1));
        send(n, first.length);
        CHECK(!fits(0));
        check_guards();
    }
}

static void the_longest_record_fits_into_an_empty_ring_wherever_that_is(void)
{
    for (uint64_t at = 0; at < CAPACITY; at += 8) {
        begin_at(at);
        CHECK(byte_ring_room(&producer, LONGEST) == LONGEST);
        send(at, LONGEST);
        receive(at, LONGEST);
    }
}

static void room_is_the_longest_record_that_can_be_reserved(void)
{
    for (uint64_t at = 0; at < CAPACITY; at += 8) {
        for (uint64_t filled = 0; filled <= CAPACITY; filled += 8) {
            begin_at(at);
            atomic_store(&ring.tail, at + filled);
            CHECK(byte_ring_attach_producer(&producer, &ring, bytes, CAPACITY));
            uint32_t room = byte_ring_room(&producer, LONGEST);
            byte_ring_end before = producer;
            CHECK(fits(room) || (room == 0 && filled == CAPACITY));
            producer = before;
            CHECK(room == LONGEST || !fits(room + 1));
        }
    }
}

static void room_looks_at_the_head_only_for_more_than_is_known(void)
{
    begin_at(0);
    send(0, 1000);
    send(1, LONGEST);
    receive(0, 1000);
    uint32_t known = CAPACITY - 2 * HEADER - 1000 - LONGEST - HEADER;
    CHECK(byte_ring_room(&producer, known) == known);
    receive(1, LONGEST);
    CHECK(byte_ring_room(&producer, known) == known);
    CHECK(byte_ring_room(&producer, known + 1) == LONGEST);
}

static void what_is_committed_may_be_shorter_than_what_was_reserved(void)
{
    for (uint64_t at = 0; at < CAPACITY; at += 8) {
        void *room;
        begin_at(at);
        CHECK(byte_ring_reserve(&producer, LONGEST, &room) == BYTE_RING_OK);
        fill(5, 5, room);
        send(6, 6);
        receive(5, 5);
        receive(6, 6);
        CHECK(peek() == BYTE_RING_EMPTY);
    }
}

static void a_reservation_may_be_abandoned(void)
{
    for (uint64_t at = 0; at < CAPACITY; at += 8) {
        begin_at(at);
        CHECK(fits(LONGEST) && fits(1000) && fits(0));
        CHECK(byte_ring_publish(&producer, 0) == BYTE_RING_OK);
        CHECK(peek() == BYTE_RING_EMPTY);
        CHECK(fits(LONGEST));
        send(1, 100);
        receive(1, 100);
        CHECK(peek() == BYTE_RING_EMPTY);
    }
}

static void a_batch_is_published_and_released_at_once(void)
{
    begin_at(CAPACITY - 80);
    for (size_t n = 0; n < 10; n++) {
        write_record(n, (uint32_t)n * 10);
        CHECK(peek() == BYTE_RING_EMPTY);
    }
    CHECK(byte_ring_publish(&producer, 10) == BYTE_RING_OK);
    for (size_t n = 0; n < 10; n++) {
        expect_record(n, (uint32_t)n * 10);
        CHECK(head() == CAPACITY - 80);
    }
    CHECK(peek() == BYTE_RING_EMPTY);
    CHECK(byte_ring_release(&consumer, 10) == BYTE_RING_OK);
    CHECK(head() == tail());
}

static void a_peek_takes_nothing(void)
{
    begin_at(0);
    send(1, 10);
    CHECK(peek() == BYTE_RING_OK && peek() == BYTE_RING_OK);
    receive(1, 10);
    CHECK(peek() == BYTE_RING_EMPTY);
}

static uint64_t random_state = 88172645463325252u;

static uint32_t pick(uint32_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 11) % below;
}

/* Any mixture of calls, against three counts: records are numbered, and record n's length follows from n. */
static void any_mixture_of_calls_keeps_order_and_content(void)
{
    static uint32_t lengths[200000];
    size_t written = 0, published = 0, read = 0, released = 0;
    begin_at((uint64_t)0 - 100 * CAPACITY);
    while (written < sizeof lengths / sizeof *lengths) {
        void *room;
        /* Phases that fill and phases that drain. */
        bool filling = written / 500 % 2;
        if (pick(10) < (filling ? 8 : 4)) {
            uint32_t length = pick(4) ? pick(64) : pick(LONGEST + 1);
            int found = byte_ring_reserve(&producer, length, &room);
            CHECK(found == BYTE_RING_OK || (found == BYTE_RING_FULL && (written != published || published != released)));
            if (found == BYTE_RING_OK && pick(20)) {
                lengths[written] = length - (pick(8) ? 0 : pick(length + 1));
                fill(written, lengths[written], room);
                written++;
            }
            if (!pick(3) || found == BYTE_RING_FULL) {
                CHECK(byte_ring_publish(&producer, written - published) == BYTE_RING_OK);
                published = written;
            }
        } else {
            if (read < published) {
                expect_record(read, lengths[read]);
                read++;
            } else {
                CHECK(peek() == BYTE_RING_EMPTY);
            }
            if (!pick(3)) {
                CHECK(byte_ring_release(&consumer, read - released) == BYTE_RING_OK);
                released = read;
            }
        }
        CHECK(tail() - head() <= CAPACITY && tail() % 8 == 0 && head() % 8 == 0);
        CHECK(byte_ring_waiting(&consumer) == published - released);
    }
    CHECK(head() < (uint64_t)1 << 63);
    check_guards();
}

/* ---- sleeping and bells ---- */

static void the_publish_after_the_consumers_arm_owes_one_bell(void)
{
    begin_at(0);
    CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_OK);
    CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_OK);
    CHECK(peek() == BYTE_RING_EMPTY);
    write_record(0, 1);
    CHECK(tail() == BYTE_RING_SLEEPS);
    CHECK(publish() == BYTE_RING_BELL);
    send(1, 1);
    CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_FULL);
    receive(0, 1);
    CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_FULL);
    receive(1, 1);
    CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_OK);
    write_record(2, 1);
    CHECK(publish() == BYTE_RING_BELL);
    receive(2, 1);
}

static void a_consumer_does_not_sleep_over_what_it_has_not_seen(void)
{
    begin_at(0);
    CHECK(peek() == BYTE_RING_EMPTY);
    send(0, 1);
    CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_FULL);
    receive(0, 1);
    CHECK(peek() == BYTE_RING_EMPTY);
    CHECK(byte_ring_close_producer(&producer) == BYTE_RING_OK);
    CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_SHUT);
}

/* Three records of 1,000 bytes, and no room for a fourth. */
static void fill_ring(void)
{
    begin_at(0);
    for (size_t n = 0; n < 3; n++)
        send(n, 1000);
    CHECK(!fits(1500));
}

static void the_release_after_the_producers_arm_owes_one_bell(void)
{
    fill_ring();
    CHECK(byte_ring_arm_producer(&producer) && byte_ring_arm_producer(&producer));
    CHECK(!fits(1500));
    expect_record(0, 1000);
    CHECK(head() == BYTE_RING_SLEEPS);
    CHECK(release() == BYTE_RING_BELL);
    receive(1, 1000);
    CHECK(!byte_ring_arm_producer(&producer));
    CHECK(fits(1500));
}

static void a_producer_does_not_sleep_over_room_that_it_has_not_seen(void)
{
    fill_ring();
    receive(0, 1000);
    CHECK(!byte_ring_arm_producer(&producer));
    CHECK(!fits(1500));
    CHECK(byte_ring_arm_producer(&producer));
    expect_record(1, 1000);
    CHECK(release() == BYTE_RING_BELL);
    CHECK(fits(1500));
}

/* ---- closing ---- */

static void a_closed_producer_leaves_what_it_published(void)
{
    begin_at(0);
    send(0, 10);
    write_record(1, 10);
    CHECK(byte_ring_close_producer(&producer) == BYTE_RING_OK);
    CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_FULL);
    receive(0, 10);
    CHECK(peek() == BYTE_RING_SHUT && peek() == BYTE_RING_SHUT);
    CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_SHUT);
    CHECK(byte_ring_waiting(&consumer) == 0);
}

static void closing_rings_who_sleeps_once(void)
{
    begin_at(0);
    CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_OK);
    CHECK(byte_ring_close_producer(&producer) == BYTE_RING_BELL);
    CHECK(byte_ring_close_producer(&producer) == BYTE_RING_OK);
    CHECK(peek() == BYTE_RING_SHUT);
    fill_ring();
    CHECK(byte_ring_arm_producer(&producer));
    CHECK(byte_ring_close_consumer(&consumer) == BYTE_RING_BELL);
    CHECK(byte_ring_close_consumer(&consumer) == BYTE_RING_OK);
    CHECK(byte_ring_consumer_closed(&producer) && !byte_ring_arm_producer(&producer));
    CHECK(!fits(1500));
}

static void closing_is_for_ever(void)
{
    begin_at(0);
    send(0, 10);
    CHECK(byte_ring_close_producer(&producer) == BYTE_RING_OK);
    CHECK(byte_ring_close_consumer(&consumer) == BYTE_RING_OK);
    write_record(1, 10);
    CHECK(publish() == BYTE_RING_OK && (tail() & BYTE_RING_CLOSED));
    receive(0, 10);
    CHECK(head() & BYTE_RING_CLOSED);
    attach();
    write_record(2, 10);
    CHECK(publish() == BYTE_RING_OK && (tail() & BYTE_RING_CLOSED));
    receive(1, 10);
    CHECK(head() & BYTE_RING_CLOSED);
    receive(2, 10);
    CHECK(peek() == BYTE_RING_SHUT);
}

/* ---- counters ---- */

static void counters_tell_what_was_published_taken_and_waits(void)
{
    begin_at(0);
    for (size_t n = 0; n < 5; n++)
        send(n, 10);
    CHECK(byte_ring_waiting(&consumer) == 5 && byte_ring_waiting(&producer) == 5);
    for (size_t n = 0; n < 5; n++)
        expect_record(n, 10);
    CHECK(byte_ring_release(&consumer, 5) == BYTE_RING_OK);
    CHECK(byte_ring_waiting(&consumer) == 0 && byte_ring_waiting(&producer) == 0);
    send(5, 10);
    send(6, 10);
    receive(5, 10);
    CHECK(byte_ring_waiting(&consumer) == 1);
    CHECK(atomic_load(&ring.published) == 7 && atomic_load(&ring.taken) == 6 && atomic_load(&ring.peak) == 5);
}

static void fragments_are_not_counted(void)
{
    begin_at(0);
    write_record(0, 1000);
    CHECK(byte_ring_publish(&producer, 0) == BYTE_RING_OK);
    CHECK(byte_ring_waiting(&consumer) == 0);
    expect_record(0, 1000);
    CHECK(byte_ring_release(&consumer, 0) == BYTE_RING_OK);
    send(1, 10);
    CHECK(byte_ring_waiting(&consumer) == 1);
    receive(1, 10);
    CHECK(atomic_load(&ring.published) == 1 && atomic_load(&ring.taken) == 1);
}

/* As a producer leaves it that dies between the two stores of a publish. */
static void nothing_waits_in_an_empty_ring_whatever_was_counted(void)
{
    begin_at(64);
    atomic_store(&ring.published, 3);
    CHECK(byte_ring_waiting(&consumer) == 0);
    send(0, 10);
    CHECK(byte_ring_waiting(&consumer) <= 3);
}

/* ---- attaching ---- */

static void a_producer_continues_where_another_left_off(void)
{
    begin_at(CAPACITY - 40);
    send(0, 100);
    write_record(1, 100); /* never published */
    CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_FULL);
    CHECK(byte_ring_attach_producer(&producer, &ring, bytes, CAPACITY));
    send(2, 50);
    receive(0, 100);
    receive(2, 50);
    CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_OK);
    CHECK(byte_ring_attach_producer(&producer, &ring, bytes, CAPACITY));
    CHECK(fits(LONGEST));
    write_record(3, 1);
    CHECK(publish() == BYTE_RING_BELL);
    receive(3, 1);
}

static void a_consumer_continues_where_another_left_off(void)
{
    begin_at(CAPACITY - 304);
    for (size_t n = 0; n < 5; n++)
        send(n, 100);
    receive(0, 100);
    expect_record(1, 100); /* never released */
    CHECK(byte_ring_attach_consumer(&consumer, &ring, bytes, CAPACITY));
    for (size_t n = 1; n < 5; n++)
        receive(n, 100);
    CHECK(peek() == BYTE_RING_EMPTY);
    fill_ring();
    CHECK(byte_ring_arm_producer(&producer));
    CHECK(byte_ring_attach_consumer(&consumer, &ring, bytes, CAPACITY));
    expect_record(0, 1000);
    CHECK(release() == BYTE_RING_BELL);
}

static bool attaches(uint64_t the_tail, uint64_t the_head, uint64_t capacity)
{
    byte_ring_end e;
    atomic_store(&ring.tail, the_tail);
    atomic_store(&ring.head, the_head);
    bool attached = byte_ring_attach_producer(&e, &ring, bytes, capacity);
    CHECK(byte_ring_attach_consumer(&e, &ring, bytes, capacity) == attached);
    return attached;
}

static void attaching_refuses_what_cant_be(void)
{
    uint64_t start = (uint64_t)0 - 64;
    CHECK(attaches(start, start, CAPACITY) && attaches(start + CAPACITY, start, CAPACITY));
    CHECK(!attaches(start + CAPACITY + 8, start, CAPACITY) && !attaches(start - 8, start, CAPACITY));
    CHECK(!attaches(start | BYTE_RING_UNUSED, start, CAPACITY) && !attaches(start, start | BYTE_RING_UNUSED, CAPACITY));
    CHECK(attaches(start | BYTE_RING_SLEEPS | BYTE_RING_CLOSED, start | BYTE_RING_SLEEPS, CAPACITY));
    CHECK(!attaches(0, 0, 0) && !attaches(0, 0, 2048) && !attaches(0, 0, CAPACITY + 8));
    CHECK(attaches(0, 0, (uint64_t)1 << 32) && !attaches(0, 0, (uint64_t)1 << 33));
}

/* ---- what the other side can't have written ---- */

static void a_tail_that_cant_be_is_corrupt(void)
{
    static const uint64_t wrong[] = {(uint64_t)0 - 8, CAPACITY + 8, BYTE_RING_UNUSED, 200 | BYTE_RING_UNUSED, UINT64_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        begin_at(0);
        atomic_store(&ring.tail, wrong[i]);
        CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_FULL);
        CHECK(peek() == BYTE_RING_CORRUPT && peek() == BYTE_RING_CORRUPT);
    }
}

static void a_tail_may_not_go_beyond_what_is_released(void)
{
    begin_at(0);
    send(0, 1000);
    expect_record(0, 1000);
    write_record(1, 10);
    atomic_store(&ring.tail, CAPACITY + 8);
    CHECK(peek() == BYTE_RING_CORRUPT);
    atomic_store(&ring.tail, CAPACITY);
    CHECK(peek() == BYTE_RING_OK);
}

static void a_header_that_cant_be_is_corrupt(void)
{
    static const byte_ring_record wrong[] = {
        {.length = 33, .kind = BYTE_RING_WHOLE}, {.length = UINT32_MAX, .kind = BYTE_RING_WHOLE},
        {.length = UINT32_MAX - 7, .kind = BYTE_RING_WHOLE}, {.length = 33}, {.length = UINT32_MAX},
        /* Padding that doesn't end with the buffer. */
        {.length = 0}, {.length = 32}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        begin_at(0);
        send(0, 32);
        memcpy(bytes, &wrong[i], HEADER);
        CHECK(peek() == BYTE_RING_CORRUPT && peek() == BYTE_RING_CORRUPT);
    }
    /* Published, but beyond the end of the buffer. */
    begin_at(CAPACITY - 64);
    send(0, 32);
    send(1, 100);
    byte_ring_record beyond = {.length = 64, .kind = BYTE_RING_WHOLE};
    memcpy(bytes + CAPACITY - 64, &beyond, HEADER);
    CHECK(peek() == BYTE_RING_CORRUPT);
    beyond.length = 56;
    memcpy(bytes + CAPACITY - 64, &beyond, HEADER);
    CHECK(peek() == BYTE_RING_OK);
}

static void a_head_that_cant_be_is_corrupt(void)
{
    /* 3,024 bytes were published, and the release of the first 1,008 was seen. */
    static const uint64_t wrong[] = {0, 1000, 3032, 1008 | BYTE_RING_UNUSED, UINT64_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        fill_ring();
        receive(0, 1000);
        CHECK(!fits(1500));
        atomic_store(&ring.head, wrong[i]);
        void *room;
        CHECK(byte_ring_reserve(&producer, 1500, &room) == BYTE_RING_CORRUPT);
        CHECK(byte_ring_room(&producer, 1500) < 1500);
        CHECK(!byte_ring_arm_producer(&producer));
        CHECK(byte_ring_reserve(&producer, 1500, &room) == BYTE_RING_CORRUPT);
    }
}

static void waiting_is_never_more_than_fits(void)
{
    begin_at(0);
    send(0, 10);
    atomic_store(&ring.published, UINT64_MAX);
    CHECK(byte_ring_waiting(&consumer) <= CAPACITY / HEADER);
    receive(0, 10);
    CHECK(atomic_load(&ring.peak) <= CAPACITY / HEADER);
    atomic_store(&ring.tail, UINT64_MAX);
    CHECK(byte_ring_waiting(&consumer) <= CAPACITY / HEADER);
}

int main(void)
{
    all_zeroes_is_an_empty_open_ring();
    records_of_any_length_arrive();
    a_record_that_would_cross_the_end_goes_to_the_beginning();
    a_ring_is_full_to_the_last_byte();
    the_longest_record_fits_into_an_empty_ring_wherever_that_is();
    room_is_the_longest_record_that_can_be_reserved();
    room_looks_at_the_head_only_for_more_than_is_known();
    what_is_committed_may_be_shorter_than_what_was_reserved();
    a_reservation_may_be_abandoned();
    a_batch_is_published_and_released_at_once();
    a_peek_takes_nothing();
    any_mixture_of_calls_keeps_order_and_content();
    the_publish_after_the_consumers_arm_owes_one_bell();
    a_consumer_does_not_sleep_over_what_it_has_not_seen();
    the_release_after_the_producers_arm_owes_one_bell();
    a_producer_does_not_sleep_over_room_that_it_has_not_seen();
    a_closed_producer_leaves_what_it_published();
    closing_rings_who_sleeps_once();
    closing_is_for_ever();
    counters_tell_what_was_published_taken_and_waits();
    fragments_are_not_counted();
    nothing_waits_in_an_empty_ring_whatever_was_counted();
    a_producer_continues_where_another_left_off();
    a_consumer_continues_where_another_left_off();
    attaching_refuses_what_cant_be();
    a_tail_that_cant_be_is_corrupt();
    a_tail_may_not_go_beyond_what_is_released();
    a_header_that_cant_be_is_corrupt();
    a_head_that_cant_be_is_corrupt();
    waiting_is_never_more_than_fits();
    return 0;
}
