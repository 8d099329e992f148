/* How a message is taken out of shared memory, and what came with it borrowed. */
#ifndef MESSAGECHANNEL_TAKEN_H
#define MESSAGECHANNEL_TAKEN_H

#include <Python.h>
#include <errno.h>
#include <unistd.h>

#include "atoms.h"
#include "shared_memory.h"
#include "taken_message.h"

/* A letter: its head, the segments, what is told of the ports, the bytes of those segments that are none (LINK_INLINE), and
   the content, unless that is in the last segment. */
typedef struct letter_head {
    uint32_t segments;
    uint32_t states;  /* bytes */
    uint32_t content; /* the tag of what is in the last segment; 0: a pickle follows here */
} letter_head;

typedef struct letter_segment {
    uint64_t size;
    uint32_t number; /* of the link's, LINK_ONCE or LINK_INLINE */
    uint32_t is_new; /* a descriptor comes with it */
} letter_segment;

/* A segment that was borrowed for an object; given back by end_loan. */
typedef struct loan {
    far_link *lender;
    unsigned number;
    void *address;
    size_t size, mapped;
} loan;

static void end_loan(void *argument)
{
    loan *l = argument;
    link_return_segment(l->lender, l->number, l->address, l->mapped);
    PyMem_RawFree(l);
}

/* Gives back what has no owner yet of a message that was taken: all that is not NULL, and no -1. */
static void drop_taken(taken *t)
{
    for (uint32_t i = 0; i < t->loan_count; i++)
        if (t->loans[i])
            end_loan(t->loans[i]);
    for (uint32_t i = 0; i < t->count; i++)
        if (t->descriptors[i] >= 0)
            shared_memory_close(t->descriptors[i]);
    Py_DECREF(t->object);
    PyMem_RawFree(t->loans);
    PyMem_RawFree(t->descriptors);
}

/* How many segments are described at the beginning of what was taken; 0 for what is no letter, or no head of one. */
static uint32_t count_segments(const taken *t)
{
    size_t length = (size_t)PyBytes_GET_SIZE(t->object);
    letter_head head;
    if (length < sizeof head)
        return 0;
    memcpy(&head, PyBytes_AS_STRING(t->object), sizeof head);
    return head.segments <= (length - sizeof head) / sizeof(letter_segment) ? head.segments : 0;
}

static letter_segment get_segment(const taken *t, uint32_t i)
{
    letter_segment s;
    memcpy(&s, PyBytes_AS_STRING(t->object) + sizeof(letter_head) + i * sizeof s, sizeof s);
    return s;
}

/* Whether each of the new segments of a letter that is to be taken can be mapped; only a want of memory counts. */
static int segments_have_room(const far_link *l, const link_message *m, const taken *t)
{
    uint32_t segments = count_segments(t), used = 0;
    for (uint32_t i = 0; i < segments && used < m->count; i++) {
        letter_segment s = get_segment(t, i);
        if (!s.is_new || s.size > PTRDIFF_MAX)
            continue;
        void *address = shared_memory_map(l->descriptors[used++], (size_t)s.size);
        if (address)
            shared_memory_unmap(address, (size_t)s.size);
        else if (errno == ENOMEM)
            return 0;
    }
    return 1;
}

/* Makes room for what borrow_segments will note of a letter that is to be taken: what was lent with it comes back only
   from there. */
static int make_loans(taken *t)
{
    uint32_t segments = count_segments(t);
    t->loans = PyMem_RawCalloc(segments + 1, sizeof *t->loans);
    for (uint32_t i = 0; t->loans && i < segments; i++)
        if (get_segment(t, i).number != LINK_INLINE && !(t->loans[i] = PyMem_RawCalloc(1, sizeof **t->loans)))
            return 0;
    return t->loans != NULL;
}

static void drop_loans(taken *t)
{
    for (uint32_t i = 0, segments = t->loans ? count_segments(t) : 0; i < segments; i++)
        PyMem_RawFree(t->loans[i]);
    PyMem_RawFree(t->loans);
}

static int borrow_segment(far_link *l, const letter_segment *s, int descriptor, loan *one)
{
    *one = (loan){.lender = l, .number = s->number, .size = (size_t)s->size};
    one->address = link_borrow_segment(l, s->number, (size_t)s->size, descriptor, &one->mapped);
    return one->address ? 0 : errno;
}

/* Borrows the segments of the letter that was just taken. Descriptors that go to them leave t->descriptors. */
static void borrow_segments(far_link *l, taken *t)
{
    uint32_t segments = count_segments(t), used = 0;
    uint64_t borrowed = 0;
    for (uint32_t i = 0; i < segments; i++) {
        letter_segment s = get_segment(t, i);
        if (s.number == LINK_INLINE)
            continue;
        borrowed += s.size;
        if (!t->error) {
            if ((s.is_new && used == t->count) || s.size > PTRDIFF_MAX)
                t->error = EPROTO;
            else
                t->error = borrow_segment(l, &s, s.is_new ? t->descriptors[used] : -1, t->loans[i]);
        }
        if (t->error) {
            PyMem_RawFree(t->loans[i]);
            t->loans[i] = NULL;
        } else {
            used += s.is_new != 0;
        }
    }
    t->loan_count = segments;
    link_count_borrowed(l, borrowed);
    t->count -= used;
    memmove(t->descriptors, t->descriptors + used, t->count * sizeof(int));
}

/* Takes a message. False, with an exception set, and it stays: no memory, or a record that is no message. */
static int take_message(far_link *l, const link_message *m, taken *t)
{
    *t = (taken){.count = m->count, .tag = m->tag};
    if (m->count && m->tag != TAG_LETTER) {
        PyErr_SetString(PyExc_ValueError, "the other process has written a record with descriptors that it has no use for");
        return 0;
    }
    t->object = decode_atom(m->tag, m->payload, m->length);
    if (t->object && m->count) {
        t->descriptors = PyMem_RawMalloc(m->count * sizeof(int));
        if (!t->descriptors) {
            PyErr_NoMemory();
            Py_CLEAR(t->object);
        }
    }
    if (t->object && t->tag == TAG_LETTER && !(make_loans(t) && segments_have_room(l, m, t))) {
        PyErr_NoMemory();
        drop_loans(t);
        Py_CLEAR(t->object);
    }
    if (!t->object) {
        PyMem_RawFree(t->descriptors);
        return 0;
    }
    link_take(l, m, t->descriptors);
    if (t->tag == TAG_LETTER)
        borrow_segments(l, t);
    return 1;
}

#endif
