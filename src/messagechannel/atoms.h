/* Messages that need no pickle between processes: what they are in a record. */
#ifndef MESSAGECHANNEL_ATOMS_H
#define MESSAGECHANNEL_ATOMS_H

#include <Python.h>
#include <string.h>

#include "by_value.h"
#include "link.h"

/* The tags of records. PICKLE is a pickle and nothing else; LETTER has what travels beside one in front of it; ERROR is the
   text of a DataCloneError, in place of a message that could not be sent on. */
enum { TAG_NONE, TAG_FALSE, TAG_TRUE, TAG_INT, TAG_FLOAT, TAG_BYTES, TAG_ASCII, TAG_UTF8, TAG_PICKLE, TAG_LETTER, TAG_ERROR };

/* Fills in a piece that refers to the object's own bytes; false for what has to be pickled. The object may be a queue item
   by value. */
static inline int encode_atom(PyObject *o, link_piece *p)
{
    p->payload = NULL;
    p->length = 0;
    if (is_by_value(o)) {
        p->tag = TAG_INT;
        p->value = (uint64_t)value_in(o);
        p->length = sizeof p->value;
        return 1;
    }
    PyTypeObject *type = Py_TYPE(o);
    if (type == &PyLong_Type) {
        int overflow;
        long long value = PyLong_AsLongLongAndOverflow(o, &overflow);
        p->tag = TAG_INT;
        p->value = (uint64_t)value;
        p->length = sizeof p->value;
        return !overflow;
    }
    if (type == &PyBytes_Type) {
        p->tag = TAG_BYTES;
        p->payload = PyBytes_AS_STRING(o);
        p->length = (size_t)PyBytes_GET_SIZE(o);
        return 1;
    }
    if (type == &PyUnicode_Type) {
        Py_ssize_t length;
        const char *text = PyUnicode_AsUTF8AndSize(o, &length);
        if (!text) {
            /* A lone surrogate, or no memory for what is not ASCII. */
            PyErr_Clear();
            return 0;
        }
        p->tag = PyUnicode_IS_ASCII(o) ? TAG_ASCII : TAG_UTF8;
        p->payload = text;
        p->length = (size_t)length;
        return 1;
    }
    if (type == &PyFloat_Type) {
        double value = PyFloat_AS_DOUBLE(o);
        p->tag = TAG_FLOAT;
        memcpy(&p->value, &value, sizeof value);
        p->length = sizeof value;
        return 1;
    }
    p->tag = o == Py_None ? TAG_NONE : o == Py_False ? TAG_FALSE : TAG_TRUE;
    return o == Py_None || o == Py_False || o == Py_True;
}

/* The object of an atom's record; for all others the payload, as bytes. NULL with an exception: MemoryError, or ValueError
   for a record that nobody could have written. */
static inline PyObject *decode_atom(uint8_t tag, const unsigned char *payload, size_t length)
{
    long long whole;
    double real;
    switch (tag) {
    case TAG_NONE:
        Py_RETURN_NONE;
    case TAG_FALSE:
        Py_RETURN_FALSE;
    case TAG_TRUE:
        Py_RETURN_TRUE;
    case TAG_INT:
        if (length != sizeof whole)
            break;
        memcpy(&whole, payload, sizeof whole);
        return PyLong_FromLongLong(whole);
    case TAG_FLOAT:
        if (length != sizeof real)
            break;
        memcpy(&real, payload, sizeof real);
        return PyFloat_FromDouble(real);
    case TAG_ASCII: {
        /* Copied before it is looked at: the other process may still write there. */
        PyObject *text = PyUnicode_New((Py_ssize_t)length, 127);
        unsigned char any = 0;
        if (!text)
            return NULL;
        unsigned char *characters = PyUnicode_1BYTE_DATA(text);
        if (length)
            memcpy(characters, payload, length);
        for (size_t i = 0; i < length; i++)
            any |= characters[i];
        if (any < 128)
            return text;
        Py_DECREF(text);
        break;
    }
    case TAG_UTF8: {
        PyObject *bytes = PyBytes_FromStringAndSize((const char *)payload, (Py_ssize_t)length);
        PyObject *text = bytes ? PyUnicode_DecodeUTF8(PyBytes_AS_STRING(bytes), (Py_ssize_t)length, NULL) : NULL;
        Py_XDECREF(bytes);
        return text;
    }
    case TAG_BYTES:
    case TAG_PICKLE:
    case TAG_LETTER:
    case TAG_ERROR:
        return PyBytes_FromStringAndSize((const char *)payload, (Py_ssize_t)length);
    default:
        break;
    }
    PyErr_SetString(PyExc_ValueError, "the other process has written a record that is no message");
    return NULL;
}

#endif
