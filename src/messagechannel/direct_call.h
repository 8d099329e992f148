/* The commonest call of a method that has optional arguments, without the wrapper that Cython makes for those: it takes
   and drops a reference to each argument, which costs more than the rest of the call.  All other calls go to it. */
#ifndef MESSAGECHANNEL_DIRECT_CALL_H
#define MESSAGECHANNEL_DIRECT_CALL_H

#include <Python.h>
#include <string.h>

/* None, as a result: where that is immortal (PEP 683), without a look at its count. */
static inline PyObject *none(void)
{
    Py_RETURN_NONE;
}

typedef PyObject *(*wrapper)(PyObject *self, PyObject *const *arguments, Py_ssize_t number, PyObject *names);

/* Puts a function into the place of a method's wrapper, and the wrapper where the function finds it.  Returns -1 and sets
   an exception where the method is not of the kind that this is for. */
static inline int call_directly(PyTypeObject *type, const char *name, wrapper direct, wrapper *former)
{
    for (PyMethodDef *method = type->tp_methods; method->ml_name; method++) {
        if (strcmp(method->ml_name, name) == 0 && method->ml_flags == (METH_FASTCALL | METH_KEYWORDS)) {
            wrapper present = (wrapper)(void (*)(void))method->ml_meth;
            if (present != direct) {
                *former = present;
                method->ml_meth = (PyCFunction)(void (*)(void))direct;
            }
            return 0;
        }
    }
    PyErr_Format(PyExc_SystemError, "%s.%s can't be called directly", type->tp_name, name);
    return -1;
}

#endif
