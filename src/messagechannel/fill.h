/* A list that is made as long as it will be, and then filled with what is taken from a queue.

   Its slots are empty until then. So no Python code may run before they are filled or cut off: it could find the list by
   way of the garbage collector. */
#ifndef MESSAGECHANNEL_FILL_H
#define MESSAGECHANNEL_FILL_H

#include <Python.h>
#include <stdint.h>

#include "by_value.h"

/* Moves owned items into the empty slots, beginning with slot `filled`, and returns how many: all n, or those before the
   first that is an Envelope, or for which there is no memory. */
static inline size_t fill_slots(PyObject *list, size_t filled, void *const *items, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        PyObject *message = items[i];
        if ((uintptr_t)message & 1)
            return i;
        if (is_by_value(message) && !(message = int_by_value(message))) {
            PyErr_Clear();
            return i;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)(filled + i), message);
    }
    return n;
}

/* Cuts off the slots that are still empty. The memory stays the list's, as after a `pop`. */
static inline void cut_slots(PyObject *list, size_t filled)
{
    Py_SET_SIZE((PyVarObject *)list, (Py_ssize_t)filled);
}

#endif
