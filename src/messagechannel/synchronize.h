/* Waiting until the other threads have left the calls that they are in.

   The name, and the idea, are read-copy-update's (synchronize_rcu): first publish what is new, then wait until nobody can
   still be acting on what was before, then rely on it. Here a call that looks at something and acts on it, and runs no
   Python and does not sleep in between, has done both before or does both after this returns. */
#ifndef MESSAGECHANNEL_SYNCHRONIZE_H
#define MESSAGECHANNEL_SYNCHRONIZE_H

#include <Python.h>

#ifdef Py_GIL_DISABLED
static inline int visit_no_more(PyObject *o, void *argument)
{
    (void)o;
    (void)argument;
    return 0;
}
#endif

/* With the GIL every call of that kind is over already. */
static inline void synchronize_threads(void)
{
#ifdef Py_GIL_DISABLED
    /* To visit objects CPython stops the world, which it does where each thread is between two instructions of Python, or
       asleep; tests/test_free_threading.py has the races that this decides. */
    PyUnstable_GC_VisitObjects(visit_no_more, NULL);
#endif
}

#endif
