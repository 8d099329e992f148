/* Many threads at one queue, and an exact account: every message once, in its sender's order, none lost.
 *
 *     stress_ring SCENARIO PRODUCERS CONSUMERS BATCH CAPACITY COUNT
 *
 *     poll      consumers never sleep; COUNT messages a producer
 *     block     consumers sleep for as long as there is nothing: a lost wake-up hangs; COUNT messages a producer
 *     once      COUNT rounds: as many messages as consumers, who take one each; some have no time to wait
 *     close     COUNT rounds: the channel is closed in the middle of the stream
 *     transfer  the right to receive travels round the consumers in the middle of the stream; COUNT messages a producer
 *     announce  COUNT rounds: the owner asks for announcements in the middle of the stream; CONSUMERS is not used
 *
 * Up to BATCH messages at a time are pushed and popped.  CAPACITY 0 is unbounded.
 */
#define _POSIX_C_SOURCE 200809L /* nanosleep */

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"
#include "check.h"

enum { MOST_THREADS = 16, MOST_BATCH = 64 };

/* Plain fields: a sanitizer sees when a message is handed over without a happens-before. */
typedef struct message {
    unsigned sender;
    size_t number; /* 1, 2, 3 ... for each sender */
    unsigned received;
    bool announced;
} message;

typedef struct thread {
    pthread_t id;
    unsigned index;
    uint64_t random;
    size_t accepted; /* of a producer's messages */
} thread;

static unsigned producers, consumers;
static size_t batch, capacity, rounds, messages_each;
/* Whether consumers sleep, and whether producers give them reason to (pause_sending). */
static bool blocking, pausing;

static thread producer[MOST_THREADS], consumer[MOST_THREADS];
static message *sent[MOST_THREADS];
static channel *shared;
static endpoint *stream;
/* Relaxed on both sides, so that it orders nothing that the queue should order. */
static _Atomic(size_t) acknowledged[MOST_THREADS];
static _Atomic(unsigned) gate;

/* The watchdog: 30 seconds without a call, and SIGALRM ends the process. */
static void show_progress(void)
{
    alarm(30);
}

static size_t pick(thread *me, size_t below)
{
    me->random ^= me->random << 13;
    me->random ^= me->random >> 7;
    me->random ^= me->random << 17;
    return (size_t)(me->random >> 11) % below;
}

static void nap(thread *me, size_t most_microseconds)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)pick(me, most_microseconds * 1000)}, NULL);
}

/* ---- waiting, as channel.h says ---- */

static size_t take(endpoint *e, void **items, size_t limit)
{
    bool attention;
    size_t n;
    if (limit == 1) {
        items[0] = endpoint_take(e, &attention);
        n = items[0] != NULL;
    } else {
        n = ring_pop_many(&e->inbox, items, limit);
        ring_return_room(&e->inbox, n);
        attention = n && e->inbox.capacity;
    }
    if (attention)
        CHECK(!endpoint_offer_room(e));
    return n;
}

/* 0: the deadline passed, or *ended. */
static size_t receive(endpoint *e, void **items, size_t limit, int64_t deadline, bool *ended)
{
    size_t n = take(e, items, limit);
    bool late = false;
    parker p;
    waiter w;
    *ended = false;
    parker_init(&p);
    while (!n && !late && !*ended) {
        waiter_init(&w, &p, NULL);
        waiter_join(&w, e, &e->receivers);
        int found = ring_arm(&e->inbox);
        if (found == RING_ARMED)
            late = parker_park(&p, deadline) == PARKER_TIMED_OUT;
        else if (found == RING_CLOSED)
            *ended = true;
        else
            sched_yield();
        waiter_leave(&w, e);
        n = take(e, items, limit);
        CHECK(!endpoint_pass_on(e));
    }
    parker_destroy(&p);
    return n;
}

static size_t receive_awake(endpoint *e, void **items, size_t limit, bool *ended)
{
    size_t n;
    *ended = false;
    while (!(n = take(e, items, limit)) && !*ended) {
        *ended = ring_drained(&e->inbox);
        sched_yield();
    }
    return n;
}

/* The room that was got, at most `wanted`; 0: the queue was closed. */
static size_t wait_for_room(endpoint *e, size_t wanted)
{
    size_t got = ring_reserve(&e->inbox, wanted);
    parker p;
    waiter w;
    parker_init(&p);
    while (!got && !ring_closed(&e->inbox)) {
        waiter_init(&w, &p, NULL);
        waiter_join(&w, e, &e->senders);
        got = ring_reserve(&e->inbox, wanted);
        if (!got && !ring_closed(&e->inbox))
            parker_park(&p, INT64_MAX);
        waiter_leave(&w, e);
        if (!got)
            got = ring_reserve(&e->inbox, wanted);
        /* The senders' baton: one return of much room wakes one sender, who may leave some of it. */
        CHECK(!endpoint_offer_room(e));
    }
    parker_destroy(&p);
    return got;
}

/* ---- producers ---- */

static void pass_gate(void)
{
    atomic_fetch_sub(&gate, 1);
    while (atomic_load(&gate))
        sched_yield();
}

/* Returns how many of the n went in. */
static size_t push_messages(message *first, size_t n)
{
    void *items[MOST_BATCH];
    int outcome;
    size_t went_in;
    for (size_t i = 0; i < n; i++)
        items[i] = &first[i];
    if (n == 1) {
        outcome = ring_push(&stream->inbox, first);
        went_in = outcome >= 0;
    } else {
        went_in = ring_push_many(&stream->inbox, items, n, &outcome);
    }
    if (!went_in) {
        CHECK(outcome == RING_CLOSED);
        return 0;
    }
    CHECK(outcome >= 0);
    if (outcome & RING_WAKE)
        CHECK(!endpoint_wake(stream, &stream->receivers));
    for (size_t i = 0; i < went_in; i++)
        first[i].announced = (outcome & RING_ANNOUNCE) != 0;
    return went_in;
}

/* Between two pushes.  Where nothing bounds the queue, now and then waits until all is received: with a wake-up lost
   this never happens. */
static void pause_sending(thread *me, size_t done)
{
    if (pick(me, 64) == 0)
        sched_yield();
    if (pausing && pick(me, 64) == 0)
        nap(me, 50);
    if (pausing && !capacity && pick(me, 4) == 0)
        while (atomic_load_explicit(&acknowledged[me->index], memory_order_relaxed) < done)
            sched_yield();
}

static void send_all(thread *me)
{
    message *mine = sent[me->index];
    size_t done = 0;
    bool open = true;
    while (open && done < messages_each) {
        size_t wanted = 1 + pick(me, batch);
        size_t n = wait_for_room(stream, wanted < messages_each - done ? wanted : messages_each - done);
        for (size_t i = done; i < done + n; i++) {
            mine[i].sender = me->index;
            mine[i].number = i + 1;
        }
        size_t went_in = n ? push_messages(mine + done, n) : 0;
        open = n && went_in == n;
        done += went_in;
        if (open)
            pause_sending(me, done);
    }
    if (!open)
        CHECK(ring_push(&stream->inbox, me) == RING_CLOSED);
    me->accepted = done;
}

static void *produce(void *argument)
{
    pass_gate();
    send_all(argument);
    return NULL;
}

/* ---- consumers ---- */

/* `last` is the number of the last message from each sender that this consumer, or these consumers, saw. */
static void account(size_t *last, void **items, size_t n, bool alone)
{
    for (size_t i = 0; i < n; i++) {
        message *m = items[i];
        CHECK(m->number > last[m->sender]);
        CHECK(!alone || m->number == last[m->sender] + 1);
        last[m->sender] = m->number;
        m->received++;
        atomic_fetch_add_explicit(&acknowledged[m->sender], 1, memory_order_relaxed);
        if (m->number % 256 == 0)
            show_progress();
    }
}

typedef struct view {
    size_t last[MOST_THREADS];
    size_t left; /* messages to look at: there may be very many */
} view;

/* What waits is a part of each sender's messages, without a gap. */
static int look(void *item, void *argument)
{
    const message *m = item;
    view *v = argument;
    CHECK(m->sender < producers && (!v->last[m->sender] || m->number == v->last[m->sender] + 1));
    v->last[m->sender] = m->number;
    return --v->left == 0;
}

/* What anybody may ask at any time. */
static void inspect(void)
{
    size_t total = producers * messages_each;
    size_t before = ring_pushed(&stream->inbox);
    CHECK(ring_length(&stream->inbox) <= (capacity ? capacity : total));
    CHECK(ring_peak(&stream->inbox) <= (capacity ? capacity : total));
    size_t after = ring_pushed(&stream->inbox);
    CHECK(before <= after && after <= total);
    view v = {.left = 100};
    CHECK(ring_look_through(&stream->inbox, look, &v) == (v.left == 0));
}

static void *consume(void *argument)
{
    thread *me = argument;
    size_t last[MOST_THREADS] = {0};
    void *items[MOST_BATCH];
    bool ended = false;
    pass_gate();
    while (!ended) {
        size_t limit = 1 + pick(me, batch);
        size_t n = blocking ? receive(stream, items, limit, INT64_MAX, &ended)
                            : receive_awake(stream, items, limit, &ended);
        account(last, items, n, consumers == 1);
        if (pick(me, 16) == 0)
            inspect();
        if (pick(me, 64) == 0)
            sched_yield();
    }
    return NULL;
}

/* ---- a run ---- */

static void set_up(void)
{
    show_progress();
    shared = channel_new(capacity, true);
    CHECK(shared);
    stream = &shared->side[0];
    for (unsigned i = 0; i < producers; i++) {
        memset(sent[i], 0, messages_each * sizeof(message));
        acknowledged[i] = 0;
    }
}

static void start(thread *threads, unsigned n, void *(*body)(void *))
{
    for (unsigned i = 0; i < n; i++)
        CHECK(!pthread_create(&threads[i].id, NULL, body, &threads[i]));
}

static void join(thread *threads, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        CHECK(!pthread_join(threads[i].id, NULL));
}

static void close_stream(void)
{
    waiter *tasks;
    CHECK(channel_close(shared, 0, &tasks) && !tasks);
}

/* Every accepted message was received once, no other one was. */
static void tear_down(void)
{
    size_t total = 0;
    for (unsigned i = 0; i < producers; i++) {
        for (size_t k = 0; k < messages_each; k++)
            CHECK(sent[i][k].received == (k < producer[i].accepted));
        total += producer[i].accepted;
    }
    CHECK(ring_pushed(&stream->inbox) == total && ring_length(&stream->inbox) == 0);
    CHECK(!stream->receivers && !stream->senders);
    channel_decref(shared);
    channel_decref(shared);
}

/* ---- scenarios ---- */

static void run_stream(void)
{
    set_up();
    gate = producers + consumers;
    start(producer, producers, produce);
    start(consumer, consumers, consume);
    join(producer, producers);
    close_stream();
    join(consumer, consumers);
    tear_down();
}

static void run_close(void)
{
    thread closer = {.random = 99};
    for (size_t round = 0; round < rounds; round++) {
        size_t moment = pick(&closer, messages_each);
        set_up();
        gate = producers + consumers + 1;
        start(producer, producers, produce);
        start(consumer, consumers, consume);
        pass_gate();
        while (atomic_load_explicit(&acknowledged[0], memory_order_relaxed) < moment)
            sched_yield();
        close_stream();
        join(producer, producers);
        join(consumer, consumers);
        CHECK(ring_drained(&stream->inbox));
        tear_down();
    }
}

/* Half of the consumers give up after a moment and do not come back; the others wait for as long as it takes, and
   there is a message for each. */
static void *consume_once(void *argument)
{
    thread *me = argument;
    size_t last[MOST_THREADS] = {0};
    bool patient = me->index % 2 == 0, ended;
    void *item;
    pass_gate();
    int64_t deadline = patient ? INT64_MAX : parker_now() + (int64_t)pick(me, 200000);
    size_t n = receive(stream, &item, 1, deadline, &ended);
    CHECK(!ended && (n == 1 || !patient));
    account(last, &item, n, false);
    return NULL;
}

static void *produce_after_a_nap(void *argument)
{
    pass_gate();
    nap(argument, 100);
    send_all(argument);
    return NULL;
}

static void run_once(void)
{
    for (size_t round = 0; round < rounds; round++) {
        size_t last[MOST_THREADS] = {0};
        void *item;
        set_up();
        gate = producers + consumers;
        start(consumer, consumers, consume_once);
        start(producer, producers, round % 2 ? produce : produce_after_a_nap);
        join(producer, producers);
        join(consumer, consumers);
        while (take(stream, &item, 1))
            account(last, &item, 1, false);
        tear_down();
    }
}

/* The right to receive from the stream: a message itself, so that its holder owns what is in it. */
typedef struct right {
    size_t last[MOST_THREADS];
    bool ended;
} right;

static channel *mailbox[MOST_THREADS];

static void hand_on(right *r, unsigned index)
{
    endpoint *e = &mailbox[index]->side[0];
    int outcome = ring_push(&e->inbox, r);
    CHECK(outcome >= 0);
    if (outcome & RING_WAKE)
        CHECK(!endpoint_wake(e, &e->receivers));
}

static void *consume_in_turn(void *argument)
{
    thread *me = argument;
    void *items[MOST_BATCH], *mine;
    bool over = false;
    pass_gate();
    while (!over) {
        bool unused;
        CHECK(receive(&mailbox[me->index]->side[0], &mine, 1, INT64_MAX, &unused) == 1);
        right *r = mine;
        for (size_t left = pick(me, 40); left && !r->ended; left--) {
            /* Out of patience: it is handed on by one who has just slept on it. */
            int64_t deadline = pick(me, 8) ? INT64_MAX : parker_now() + (int64_t)pick(me, 50000);
            size_t n = receive(stream, items, 1 + pick(me, batch), deadline, &r->ended);
            account(r->last, items, n, true);
            if (!n)
                break;
        }
        over = r->ended;
        hand_on(r, (me->index + 1) % consumers);
    }
    return NULL;
}

static void run_transfer(void)
{
    right only = {.ended = false};
    set_up();
    for (unsigned i = 0; i < consumers; i++)
        CHECK((mailbox[i] = channel_new(0, true)));
    gate = producers + consumers;
    start(producer, producers, produce);
    start(consumer, consumers, consume_in_turn);
    hand_on(&only, 0);
    join(producer, producers);
    close_stream();
    join(consumer, consumers);
    for (unsigned i = 0; i < consumers; i++) {
        channel_decref(mailbox[i]);
        channel_decref(mailbox[i]);
    }
    tear_down();
}

/* Messages are received in the order of their claims, so the first `seen` are those that the owner knew of when it had
   asked; each of the others must have been announced. */
static void run_announce(void)
{
    thread owner = {.random = 99};
    for (size_t round = 0; round < rounds; round++) {
        size_t last[MOST_THREADS] = {0}, seen = 0;
        void *item;
        set_up();
        gate = producers + 1;
        start(producer, producers, produce);
        pass_gate();
        for (size_t tries = pick(&owner, 200); tries; tries--) {
            if (take(stream, &item, 1)) {
                account(last, &item, 1, true);
                seen++;
            }
        }
        size_t counted = ring_announce(&stream->inbox, true);
        join(producer, producers);
        for (seen += counted; counted; counted--) {
            CHECK(take(stream, &item, 1));
            account(last, &item, 1, true);
        }
        while (take(stream, &item, 1)) {
            account(last, &item, 1, true);
            CHECK(((message *)item)->announced);
            seen++;
        }
        CHECK(seen == producers * messages_each);
        tear_down();
    }
}

/* messages_each 0: COUNT says it; otherwise COUNT says how many rounds. */
static const struct scenario {
    const char *name;
    void (*run)(void);
    bool blocking, pausing;
    size_t messages_each;
} scenarios[] = {
    {"poll", run_stream, false, false, 0},    {"block", run_stream, true, true, 0},
    {"once", run_once, true, false, 1},       {"close", run_close, true, false, 200},
    {"transfer", run_transfer, true, true, 0}, {"announce", run_announce, false, false, 20},
};

int main(int argc, char **argv)
{
    const struct scenario *chosen = scenarios, *end = scenarios + sizeof scenarios / sizeof *scenarios;
    while (argc == 7 && chosen < end && strcmp(chosen->name, argv[1]))
        chosen++;
    if (argc != 7 || chosen == end) {
        fprintf(stderr, "usage: %s SCENARIO PRODUCERS CONSUMERS BATCH CAPACITY COUNT\n", argv[0]);
        return 2;
    }
    producers = (unsigned)strtoul(argv[2], NULL, 10);
    consumers = (unsigned)strtoul(argv[3], NULL, 10);
    batch = strtoul(argv[4], NULL, 10);
    capacity = strtoul(argv[5], NULL, 10);
    rounds = strtoul(argv[6], NULL, 10);
    CHECK(producers && producers <= MOST_THREADS && consumers && consumers <= MOST_THREADS);
    CHECK(batch && batch <= MOST_BATCH);
    blocking = chosen->blocking;
    pausing = chosen->pausing;
    messages_each = chosen->messages_each ? chosen->messages_each : rounds;
    if (chosen->run == run_once)
        messages_each = consumers / producers;
    for (unsigned i = 0; i < MOST_THREADS; i++) {
        producer[i] = (thread){.index = i, .random = 1000003u * (i + 1)};
        consumer[i] = (thread){.index = i, .random = 7368787u * (i + 1)};
    }
    for (unsigned i = 0; i < producers; i++)
        CHECK((sent[i] = malloc(messages_each * sizeof(message))));
    chosen->run();
    for (unsigned i = 0; i < producers; i++)
        free(sent[i]);
    return 0;
}
