/* Ints that travel by value.

   Without the GIL, what a message costs is the object: one thread allocates it in a cache line that another has written,
   the other counts it down, and gives the memory back to the heap of the first. An int is its value and nothing else. So a
   queue holds the value itself, where it fits into an item beside the tag, and the receiver makes an int of its own, from
   its own heap. Whoever promises identity (copy=False) does not ask for that.

   With the GIL one reference more is cheaper, and no int goes by value.

   An item is a reference to an object, whose address leaves the lowest bits free; bit 0 marks an Envelope
   (_transport.pyx), bit 1 a value. */
#ifndef MESSAGECHANNEL_BY_VALUE_H
#define MESSAGECHANNEL_BY_VALUE_H

#include <Python.h>
#include <stdint.h>

#ifdef Py_GIL_DISABLED

enum { BY_VALUE = 2, VALUE_SHIFT = 2 };

static inline int is_by_value(const void *item)
{
    return ((uintptr_t)item & BY_VALUE) != 0;
}

static inline intptr_t value_in(const void *item)
{
    return (intptr_t)item >> VALUE_SHIFT;
}

/* The item for an int, which owns nothing; NULL for what has to go as an object. */
static inline PyObject *item_by_value(PyObject *o)
{
    intptr_t value;
    if (Py_TYPE(o) != &PyLong_Type)
        return NULL;
    if (PyUnstable_Long_IsCompact((PyLongObject *)o)) {
        value = PyUnstable_Long_CompactValue((PyLongObject *)o);
    } else {
        int overflow;
        long long wide = PyLong_AsLongLongAndOverflow(o, &overflow);
        value = (intptr_t)wide;
        if (overflow || value != wide)
            return NULL;
    }
    uintptr_t item = (uintptr_t)value << VALUE_SHIFT | BY_VALUE;
    return value_in((void *)item) == value ? (PyObject *)item : NULL;
}

/* A new int; NULL with an exception set when there is no memory for it. */
static inline PyObject *int_by_value(const void *item)
{
    return PyLong_FromLongLong(value_in(item));
}

#else

static inline int is_by_value(const void *item)
{
    (void)item;
    return 0;
}

static inline intptr_t value_in(const void *item)
{
    (void)item;
    return 0;
}

static inline PyObject *item_by_value(PyObject *o)
{
    (void)o;
    return NULL;
}

static inline PyObject *int_by_value(const void *item)
{
    (void)item;
    return NULL;
}

#endif
#endif
