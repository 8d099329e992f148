/* The byte ring when one of its processes is killed: behind each of its stores in turn, and at any moment.
 *
 *     kill_byte_ring steps
 *     kill_byte_ring producers|consumers KILLS
 *
 * The survivor must find exactly the whole records that were published before, in order, and a ring in which a new
 * process can take the dead one's place.  It learns of the death by the end of file of the socket that carries bells.
 */
#define _DEFAULT_SOURCE 1 /* MAP_ANONYMOUS */

#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "byte_ring_peer.h"
#include "byte_ring_steps.h"

enum { CAPACITY = 4096, LONGEST = CAPACITY / 2 - (int)sizeof(byte_ring_record), GRAIN = 128, NOBODY = -1 };

/* Where a round begins. */
typedef struct state {
    uint64_t start;    /* both positions, of the empty ring */
    uint64_t waiting;  /* records 0, 1 ... that have been published since */
    uint32_t longest;  /* of all records */
    bool sleeps;       /* the survivor does, if it has reason to */
} state;

/* What the process that dies has done, kept where its death does not reach. */
typedef struct diary {
    /* All records below were published, or released; those up to the second number perhaps. */
    _Atomic(uint64_t) published, publishing, released, releasing;
    _Atomic(bool) closed, closing;
    _Atomic(unsigned) kinds; /* of steps that it went */
    _Atomic(bool) finished;
} diary;

static diary *account;
static byte_ring *ring;
static byte_ring_end producer, consumer;
static uint32_t longest;
static uint64_t random_state = 1;

static volatile pid_t victim;
/* In the victim, and 0 in the survivor: behind which of its steps it dies. */
static uint64_t last_step, steps;

static uint32_t pick(uint32_t below)
{
    return (uint32_t)(peer_mix(random_state++) >> 32) % below;
}

void byte_ring_step(enum step step)
{
    if (!last_step)
        return;
    if (step == STEP_TAIL) {
        atomic_store(&account->published, atomic_load(&account->publishing));
        atomic_store(&account->closed, atomic_load(&account->closing));
    }
    if (step == STEP_HEAD) {
        atomic_store(&account->released, atomic_load(&account->releasing));
        atomic_store(&account->closed, atomic_load(&account->closing));
    }
    atomic_fetch_or(&account->kinds, 1u << step);
    if (++steps == last_step)
        kill(getpid(), SIGKILL);
}

/* The timer ends the victim, and if that was all in vain, the test. */
static void on_timer(int signal_number)
{
    (void)signal_number;
    if (!victim)
        check_failed(__FILE__, __LINE__, "the survivor notices");
    kill(victim, SIGKILL);
    victim = 0;
    alarm(30);
}

/* ---- either side's work ---- */

static void ring_bell(int socket, int outcome)
{
    CHECK(outcome >= 0);
    if (socket != NOBODY)
        peer_ring(socket, outcome);
}

/* False: no room. */
static bool write_record(uint64_t n)
{
    uint32_t length = peer_length(n, longest);
    void *room;
    int found = byte_ring_reserve(&producer, length, &room);
    if (found == BYTE_RING_FULL)
        return false;
    CHECK(found == BYTE_RING_OK);
    for (uint32_t i = 0; i < length; i++) {
        ((unsigned char *)room)[i] = peer_byte(n, i);
        if (i % GRAIN == 0)
            byte_ring_step(STEP_PAYLOAD);
    }
    peer_commit(&producer, n, length);
    return true;
}

static void publish(uint64_t before, uint64_t n, int socket)
{
    atomic_store(&account->publishing, n);
    int outcome = byte_ring_publish(&producer, n - before);
    atomic_store(&account->published, n);
    ring_bell(socket, outcome);
}

/* Goes on from record n until the survivor is no more, in batches; or until `end`, or the ring is full, if `end` is not 0. */
static void produce(uint64_t n, uint64_t end, int socket)
{
    for (bool open = true; open && (!end || n < end);) {
        uint64_t before = n;
        bool full = false;
        for (uint32_t batch = 1 + pick(3); batch && !full; batch--)
            if (write_record(n))
                n++;
            else
                full = true;
        publish(before, n, socket);
        if (full && byte_ring_arm_producer(&producer))
            open = !end && peer_sleep(socket);
    }
    atomic_store(&account->closing, true);
    ring_bell(socket, byte_ring_close_producer(&producer));
}

static void release(uint64_t before, uint64_t n, int socket)
{
    atomic_store(&account->releasing, n);
    int outcome = byte_ring_release(&consumer, n - before);
    atomic_store(&account->released, n);
    ring_bell(socket, outcome);
}

/* Goes on from record n, in batches, until it would sleep and may not, or there will be no more.  The next n. */
static uint64_t consume(uint64_t n, bool may_sleep, int socket)
{
    byte_ring_record record;
    const unsigned char *payload;
    for (;;) {
        uint64_t before = n;
        int found = BYTE_RING_OK;
        for (uint32_t batch = 1 + pick(3); batch && (found = byte_ring_peek(&consumer, &record, &payload)) == 0; batch--) {
            peer_check(n, peer_length(n, longest), &record, payload);
            byte_ring_skip(&consumer, &record);
            n++;
        }
        CHECK(found == BYTE_RING_OK || found == BYTE_RING_EMPTY || found == BYTE_RING_SHUT);
        release(before, n, socket);
        if (found != BYTE_RING_OK) {
            int armed = byte_ring_arm_consumer(&consumer);
            if (armed == BYTE_RING_SHUT || (armed == BYTE_RING_OK && !(may_sleep && peer_sleep(socket))))
                return n;
        }
    }
}

static void consume_and_close(int socket)
{
    consume(0, false, socket);
    atomic_store(&account->closing, true);
    ring_bell(socket, byte_ring_close_consumer(&consumer));
}

/* ---- a round ---- */

static void prepare(const state *s)
{
    ring = peer_map(CAPACITY);
    longest = s->longest;
    memset(account, 0, sizeof *account);
    atomic_store(&ring->tail, s->start);
    atomic_store(&ring->head, s->start);
    CHECK(byte_ring_attach_producer(&producer, ring, ring + 1, CAPACITY));
    CHECK(byte_ring_attach_consumer(&consumer, ring, ring + 1, CAPACITY));
    for (uint64_t n = 0; n < s->waiting; n++) {
        CHECK(write_record(n));
        CHECK(byte_ring_publish(&producer, 1) == BYTE_RING_OK);
    }
    atomic_store(&account->published, s->waiting);
}

/* Starts a process that does `work` and dies behind its step number `step`.  The survivor's socket. */
static int start_victim(void (*work)(int socket), uint64_t step)
{
    int sockets[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
    victim = fork();
    CHECK(victim >= 0);
    if (victim == 0) {
        close(sockets[0]);
        last_step = step;
        random_state += step;
        work(sockets[1]);
        atomic_store(&account->finished, true);
        _exit(0);
    }
    close(sockets[1]);
    return sockets[0];
}

static void bury(pid_t dead, int socket)
{
    int status;
    CHECK(waitpid(dead, &status, 0) == dead);
    CHECK(atomic_load(&account->finished) ? status == 0 : WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    close(socket);
}

/* Another process takes the producer's place. */
static void check_new_producer(uint64_t n)
{
    void *room;
    CHECK(byte_ring_waiting(&consumer) == 0);
    CHECK(byte_ring_attach_producer(&producer, ring, ring + 1, CAPACITY));
    CHECK(byte_ring_reserve(&producer, LONGEST, &room) == BYTE_RING_OK);
    CHECK(write_record(n));
    CHECK(byte_ring_publish(&producer, 1) >= 0);
    CHECK(consume(n, false, NOBODY) == n + 1);
}

/* Another process takes the consumer's place, and finds what was not released, up to record n.  The producer's view of
   the ring was good all the time. */
static void check_new_consumer(uint64_t n)
{
    uint64_t released = atomic_load(&account->released), releasing = atomic_load(&account->releasing);
    uint64_t first = n;
    byte_ring_record record;
    const unsigned char *payload;
    void *room;
    CHECK(byte_ring_attach_consumer(&consumer, ring, ring + 1, CAPACITY));
    if (byte_ring_peek(&consumer, &record, &payload) == BYTE_RING_OK)
        first = released + (uint16_t)(record.count - (uint16_t)released);
    CHECK(released <= first && first <= releasing);
    CHECK(byte_ring_reserve(&producer, LONGEST, &room) != BYTE_RING_CORRUPT);
    CHECK(consume(first, false, NOBODY) == n);
    CHECK(byte_ring_reserve(&producer, LONGEST, &room) == BYTE_RING_OK);
    CHECK(write_record(n));
    CHECK(byte_ring_publish(&producer, 1) >= 0);
    CHECK(consume(n, false, NOBODY) == n + 1);
}

/* ---- behind each store ---- */

static const state *begin;

static void produce_some(int socket)
{
    produce(begin->waiting, begin->waiting + 12, socket);
}

/* The survivor reads when all is over: exactly what had been published. */
static void kill_producer(uint64_t step)
{
    prepare(begin);
    if (begin->sleeps)
        CHECK(byte_ring_arm_consumer(&consumer) == BYTE_RING_OK);
    int socket = start_victim(produce_some, step);
    while (peer_sleep(socket))
        ;
    bury(victim, socket);
    uint64_t published = atomic_load(&account->published);
    bool closed = atomic_load(&account->closed);
    CHECK(byte_ring_waiting(&consumer) >= published);
    CHECK(consume(0, false, NOBODY) == published);
    CHECK(byte_ring_arm_consumer(&consumer) == (closed ? BYTE_RING_SHUT : BYTE_RING_OK));
    check_new_producer(published);
}

static void kill_consumer(uint64_t step)
{
    prepare(begin);
    if (begin->sleeps)
        CHECK(byte_ring_arm_producer(&producer));
    int socket = start_victim(consume_and_close, step);
    while (peer_sleep(socket))
        ;
    bury(victim, socket);
    CHECK(atomic_load(&account->released) == atomic_load(&account->releasing) || !atomic_load(&account->finished));
    CHECK(byte_ring_consumer_closed(&producer) == atomic_load(&account->closed));
    atomic_store(&account->releasing, atomic_load(&account->released));
    check_new_consumer(begin->waiting);
}

static void kill_behind_each_step(const state *states, size_t n, void (*round)(uint64_t), unsigned expected_kinds)
{
    unsigned kinds = 0;
    for (begin = states; begin < states + n; begin++) {
        bool finished = false;
        for (uint64_t step = 1; !finished; step++) {
            alarm(30);
            round(step);
            finished = atomic_load(&account->finished);
            kinds |= atomic_load(&account->kinds);
            peer_unmap(ring, CAPACITY);
        }
    }
    CHECK(kinds == expected_kinds);
}

static void kill_at_steps(void)
{
    /* Empty and asleep, nearly full, at the end of the buffer, at the end of the numbers. */
    static const state producers[] = {
        {.start = 0, .longest = 300}, {.start = 0, .longest = 300, .sleeps = true}, {.start = 0, .waiting = 5, .longest = 1000},
        {.start = CAPACITY - 8, .longest = 900, .sleeps = true}, {.start = CAPACITY - 400, .waiting = 4, .longest = 300},
        {.start = (uint64_t)0 - 800, .longest = 300}, {.start = CAPACITY - 1000, .longest = LONGEST}};
    static const state consumers[] = {
        {.start = 0, .waiting = 1, .longest = 300}, {.start = 0, .waiting = 8, .longest = 300},
        {.start = 0, .waiting = 12, .longest = 300, .sleeps = true}, {.start = CAPACITY - 8, .waiting = 5, .longest = 900},
        {.start = (uint64_t)0 - 400, .waiting = 8, .longest = 300, .sleeps = true},
        {.start = CAPACITY - 1000, .waiting = 4, .longest = 1000}};
    kill_behind_each_step(producers, sizeof producers / sizeof *producers, kill_producer,
                          1u << STEP_HEADER | 1u << STEP_PUBLISHED | 1u << STEP_TAIL | 1u << STEP_HEAD_ARMED
                              | 1u << STEP_PAYLOAD);
    kill_behind_each_step(consumers, sizeof consumers / sizeof *consumers, kill_consumer,
                          1u << STEP_TAKEN | 1u << STEP_HEAD | 1u << STEP_TAIL_ARMED | 1u << STEP_PEAK);
}

/* ---- at any moment, under load ---- */

static void produce_on(int socket)
{
    produce(0, 0, socket);
}

static void consume_on(int socket)
{
    consume(0, true, socket);
}

static void start_timer(void)
{
    setitimer(ITIMER_REAL, &(struct itimerval){.it_value.tv_usec = 1 + (suseconds_t)pick(2000)}, NULL);
}

static void kill_producer_any_time(void)
{
    int socket = start_victim(produce_on, UINT64_MAX);
    pid_t dead = victim;
    start_timer();
    uint64_t n = consume(0, true, socket);
    bury(dead, socket);
    /* Death may come between a publish and its bell. */
    n = consume(n, false, NOBODY);
    CHECK(atomic_load(&account->published) <= n && n <= atomic_load(&account->publishing));
    check_new_producer(n);
}

static void kill_consumer_any_time(void)
{
    int socket = start_victim(consume_on, UINT64_MAX);
    pid_t dead = victim;
    start_timer();
    produce(0, 0, socket);
    bury(dead, socket);
    check_new_consumer(atomic_load(&account->published));
}

static void kill_any_time(uint64_t kills, void (*round)(void))
{
    while (kills--) {
        prepare(&(state){.start = peer_mix(kills) & BYTE_RING_POSITION, .longest = pick(2) ? 100 : LONGEST});
        round();
        peer_unmap(ring, CAPACITY);
    }
}

int main(int argc, char **argv)
{
    account = mmap(NULL, sizeof *account, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(account != MAP_FAILED);
    CHECK(sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_timer}, NULL) == 0);
    if (argc == 2 && !strcmp(argv[1], "steps")) {
        kill_at_steps();
    } else if (argc == 3) {
        kill_any_time(strtoull(argv[2], NULL, 10),
                      strcmp(argv[1], "consumers") ? kill_producer_any_time : kill_consumer_any_time);
    } else {
        fprintf(stderr, "usage: %s steps | producers KILLS | consumers KILLS\n", argv[0]);
        return 2;
    }
    return 0;
}
