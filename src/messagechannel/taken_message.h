/* A message that was taken out of shared memory, before there are objects for what came with it. */
#ifndef MESSAGECHANNEL_TAKEN_MESSAGE_H
#define MESSAGECHANNEL_TAKEN_MESSAGE_H

#include <Python.h>
#include <stdint.h>

typedef struct taken {
    PyObject *object;    /* the atom, or the payload as bytes; NULL where nothing could be taken, for `outcome` */
    int *descriptors;    /* count of them; PyMem_RawFree */
    struct loan **loans; /* likewise; NULL for a segment whose bytes are in the payload */
    uint32_t count, loan_count;
    int outcome;
    int error; /* why the loans are incomplete, or nothing was taken; or 0 */
    uint8_t tag;
} taken;

#endif
