/* Giving a reference to an object away, to whichever thread will take it.

   Without the GIL, CPython counts the references of the thread that made an object apart from all others' (PEP 703). A
   reference that is taken on the maker's own count, and dropped by another thread, makes that thread hand the object
   back to its maker, through a queue with a lock, where it waits for the maker to run some Python. A reference that will
   be dropped elsewhere belongs on the shared count from the start, which is where Py_INCREF would put it in any other
   thread.

   The one place that knows how CPython lays that out; tests/test_handover.py looks whether it still does. */
#ifndef MESSAGECHANNEL_HANDOVER_H
#define MESSAGECHANNEL_HANDOVER_H

#include <Python.h>

/* Makes a new reference, for any thread to drop. */
static inline void incref_shared(PyObject *o)
{
#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030D0000 && PY_VERSION_HEX < 0x030F0000
    if (!_Py_IsImmortal(o))
        _Py_atomic_add_ssize(&o->ob_ref_shared, (Py_ssize_t)1 << _Py_REF_SHARED_SHIFT);
#else
    Py_INCREF(o);
#endif
}

#endif
