/* What the models know beside the memory: plain data of the ring and the channel, and the properties.
 *
 *     order     nothing is lost, duplicated or overtaken: messages are popped in the order of the claims, hence FIFO per
 *               sender; what is popped was written, and that is visible to whoever pops it
 *     numbers   a segment's `first`, where it is known, is right; so is the length
 *     armed     WAIT is set only while the ring is exactly empty and open (I6)
 *     final     no claim after the close (I7); "closed and drained" is told only when it is so
 *     told      who takes the last message after the close learns that it was the last
 *     heard     a push is announced, or the announcing owner has seen its message
 *     room      no more messages wait than there is capacity for (I8)
 *     parked    nobody touches a parker that its thread has left
 *
 * memory.h adds stale, race and leak.  That everything ends - that no wake-up and no message is lost - is Spin's to see: a
 * thread that waits for ever is an invalid end state.
 */
typedef struct __attribute__((packed)) waiters {
    uint8_t count;
    uint8_t who[THREADS];
} waiters;

typedef struct __attribute__((packed)) record {
    uint8_t claimed, popped, shut;
    uint8_t order[ITEMS]; /* of those not popped yet, the items in the order of their claims */
    uint8_t number[SEGMENTS + 1];
    uint8_t announced; /* a bit for each claim */
    uint8_t seen;      /* how many claims the announcing owner has seen */
    uint8_t offset, known; /* the ring's, under the token */
    uint8_t close_looked;  /* whoever closed has looked whether the ring was drained by then */
    waiters list[2];   /* the channel's, under the lock */
    uint8_t asleep;    /* in the kernel: a bit for each thread */
    uint8_t parker;    /* exists: a bit for each thread */
} record;

/* ---- the ring ---- */

/* The tail was swapped so that `n` items from `item` on are claimed. */
static void claim(record *r, int item, int n, int before, int after)
{
    if (r->shut)
        uerror("final: a push succeeds after the close");
    if (after & WAIT)
        uerror("armed: WAIT stays set while a message is there");
#ifdef CAPACITY
    if (r->claimed + n - r->popped > CAPACITY)
        uerror("room: more messages wait than there is capacity for");
#endif
    for (int i = 0; i < n; i++)
        r->order[r->claimed++] = (uint8_t)(item + i);
    if (SEGMENT(after) != SEGMENT(before))
        r->number[SEGMENT(after)] = (uint8_t)(SEGMENT(before) ? r->number[SEGMENT(before)] + 1 : 0);
}

static int claims_at(const record *r, int tail)
{
    return SEGMENT(tail) ? r->number[SEGMENT(tail)] * SLOTS + OFFSET(tail) : 0;
}

static void check_number(const record *r, int s, int first)
{
    if (first != UNKNOWN && first != r->number[s])
        uerror("numbers: a segment's number is wrong");
}

static void check_known(const record *r, int s, int first)
{
    if (first == UNKNOWN)
        uerror("numbers: a consumer reads a number that is not known");
    check_number(r, s, first);
}

static void check_length(const record *r, int tail)
{
    if (claims_at(r, tail) < r->popped)
        uerror("numbers: more messages popped than claimed");
}

static void check_popped(record *r, memory *m, int t, int slot, int item)
{
    if (r->popped >= r->claimed || r->order[r->popped] != item)
        uerror("order: a message is lost, duplicated or overtaken");
    if (!(m->view[t].facts & CONTENTS(item)))
        uerror("order: a message is popped before what is in it is visible");
    r->order[r->popped++] = 0;
    consumed(m, slot, item);
}

static void check_told(const record *r, int shut)
{
    if (r->close_looked && r->popped == r->claimed && !shut)
        uerror("told: the last message is taken after the close, and nobody learns that it was the last");
}

static void check_armed(const record *r)
{
    if (r->shut || r->popped != r->claimed)
        uerror("armed: WAIT is set while the ring is closed or not empty");
}

static void check_drained(const record *r)
{
    if (!r->shut || r->popped != r->claimed)
        uerror("final: drained is told too early");
}

static void check_heard(const record *r)
{
    for (int i = r->seen; i < r->claimed; i++)
        if (!(r->announced & 1 << i))
            uerror("heard: a push is neither announced nor seen");
}

/* ---- waiters ---- */

static void join_list(record *r, int list, int t)
{
    r->list[list].who[r->list[list].count++] = (uint8_t)t;
}

static void unlink_at(waiters *w, int i)
{
    w->count--;
    memmove(&w->who[i], &w->who[i + 1], (size_t)(w->count - i));
    w->who[w->count] = 0;
}

static void leave_list(record *r, int t)
{
    for (int list = 0; list < 2; list++)
        for (int i = 0; i < r->list[list].count; i++)
            if (r->list[list].who[i] == t) {
                unlink_at(&r->list[list], i);
                return;
            }
}

static int take_first(record *r, int list)
{
    if (!r->list[list].count)
        return NOBODY;
    int t = r->list[list].who[0];
    unlink_at(&r->list[list], 0);
    return t;
}

static void check_parker(const record *r, int t)
{
    if (!(r->parker & 1 << t))
        uerror("parked: a parker is touched that its thread has left");
}
