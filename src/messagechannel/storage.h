/* Moving the storage of a bytearray or array.array to another one, without a copy. */
#ifndef MESSAGECHANNEL_STORAGE_H
#define MESSAGECHANNEL_STORAGE_H

#include <Python.h>

/* Swap the storage of two objects of one type. Return 0, or -1 if a view of either exists, and then nothing changed. */
int swap_bytearrays(PyObject *, PyObject *);
int swap_arrays(PyObject *, PyObject *);

int bytearray_is_exported(PyObject *);
int array_is_exported(PyObject *);

#endif
