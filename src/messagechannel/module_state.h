/* A module's state, found fast.

   Every interpreter has modules of its own, and Cython finds the one of the interpreter that runs, and with it the
   module's types and constants, whenever they are needed: in a table, behind a counter that all threads of the process
   change twice for each look. Here that is done once a thread. As long as one interpreter only has imported the module,
   which is what most programs do, its state is the one there is, and nothing needs to be found.

   This replaces a macro of Cython's that is used for nothing else, and hooks into the one call that makes the
   module. */
#ifndef MESSAGECHANNEL_MODULE_STATE_H
#define MESSAGECHANNEL_MODULE_STATE_H

#include <Python.h>
#include <stdatomic.h>
#include <stdint.h>

/* How often the module was made: grows before the new one's state is first looked for. So, until it grows again, an
   address of an interpreter stands for one interpreter, and that has one module. */
static _Atomic(unsigned) modules_made;

/* The state of the only module; NULL before it was looked for; STATES_DIFFER from the second module on, for ever. */
static _Atomic(uintptr_t) only_state;
enum { STATES_DIFFER = 1 };

static _Thread_local struct {
    PyInterpreterState *interpreter;
    void *state;
    unsigned modules_made;
} state_found;

static inline PyObject *make_module(PyObject *name)
{
    /* Cython makes modules for itself too; ours are in a package. */
    int ours = PyUnicode_FindChar(name, '.', 0, PyUnicode_GET_LENGTH(name), 1) >= 0;
    if (ours && atomic_fetch_add(&modules_made, 1) > 0)
        atomic_store(&only_state, STATES_DIFFER);
    return PyModule_NewObject(name);
}

static inline int state_is_found(void)
{
    return state_found.modules_made == atomic_load_explicit(&modules_made, memory_order_relaxed)
           && state_found.interpreter == PyThreadState_Get()->interp;
}

/* Slow: `state` was just looked up. */
static void *keep_state(void *state)
{
    uintptr_t none = 0;
    state_found.modules_made = atomic_load(&modules_made);
    state_found.interpreter = PyThreadState_Get()->interp;
    state_found.state = state;
    atomic_compare_exchange_strong(&only_state, &none, (uintptr_t)state);
    return state;
}

static inline uintptr_t the_only_state(void)
{
    return atomic_load_explicit(&only_state, memory_order_relaxed);
}

#define PyModule_NewObject(name) make_module(name)

/* `module` is an expression that costs, and is evaluated only where it must be. */
#undef __Pyx_PyModule_GetState
#define __Pyx_PyModule_GetState(module) \
    ((__pyx_mstatetype *)(the_only_state() > STATES_DIFFER ? (void *)the_only_state() \
                          : state_is_found() ? state_found.state \
                          : keep_state(__Pyx__PyModule_GetState(module))))

#endif
