#include "storage.h"

#include "locking.h"

#if PY_VERSION_HEX >= 0x030F0000
#error "the layouts of bytearray and array.array are known for CPython 3.10 to 3.14 only"
#endif

/* The layout of array.array, which CPython has in no header; tests/test_transfer.py notices another one. */
struct array {
    PyObject_VAR_HEAD
    char *items;
    Py_ssize_t allocated;
    const void *description;
    PyObject *weak_references;
    Py_ssize_t exports;
};

int bytearray_is_exported(PyObject *o)
{
    return ((PyByteArrayObject *)o)->ob_exports > 0;
}

int array_is_exported(PyObject *o)
{
    return ((struct array *)o)->exports > 0;
}

static void swap_sizes(PyObject *one, PyObject *other)
{
    Py_ssize_t size = Py_SIZE(one);
    Py_SET_SIZE((PyVarObject *)one, Py_SIZE(other));
    Py_SET_SIZE((PyVarObject *)other, size);
}

int swap_bytearrays(PyObject *one, PyObject *other)
{
    PyByteArrayObject *a = (PyByteArrayObject *)one, *b = (PyByteArrayObject *)other;
    int error;
    Py_BEGIN_CRITICAL_SECTION2(one, other);
    error = bytearray_is_exported(one) || bytearray_is_exported(other) ? -1 : 0;
    if (!error) {
        Py_ssize_t allocated = a->ob_alloc;
        char *bytes = a->ob_bytes, *start = a->ob_start;
        swap_sizes(one, other);
        a->ob_alloc = b->ob_alloc;
        a->ob_bytes = b->ob_bytes;
        a->ob_start = b->ob_start;
        b->ob_alloc = allocated;
        b->ob_bytes = bytes;
        b->ob_start = start;
    }
    Py_END_CRITICAL_SECTION2();
    return error;
}

int swap_arrays(PyObject *one, PyObject *other)
{
    struct array *a = (struct array *)one, *b = (struct array *)other;
    int error;
    Py_BEGIN_CRITICAL_SECTION2(one, other);
    error = array_is_exported(one) || array_is_exported(other) ? -1 : 0;
    if (!error) {
        char *items = a->items;
        Py_ssize_t allocated = a->allocated;
        swap_sizes(one, other);
        a->items = b->items;
        a->allocated = b->allocated;
        b->items = items;
        b->allocated = allocated;
    }
    Py_END_CRITICAL_SECTION2();
    return error;
}
