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
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* How often the module was made: grows before the new one's state is first looked for. So, until it grows again, an
   address of an interpreter stands for one interpreter, and that has one module. */
static _Atomic(unsigned) modules_made;

/* What was looked up first, by whichever interpreter; never changes again. */
static _Atomic(uintptr_t) first_state;

static _Thread_local struct {
    PyInterpreterState *interpreter;
    void *state;
    unsigned modules_made;
} state_found;

static inline PyObject *make_module(PyObject *name)
{
    /* Cython makes modules for itself too; ours are in a package. */
    if (PyUnicode_FindChar(name, '.', 0, PyUnicode_GET_LENGTH(name), 1) >= 0)
        atomic_fetch_add(&modules_made, 1);
    return PyModule_NewObject(name);
}

/* An interpreter that makes a second module makes it before it looks for its state, so nobody is told that of another. */
static inline int first_state_is_ours(void)
{
    return atomic_load_explicit(&modules_made, memory_order_relaxed) == 1
           && atomic_load_explicit(&first_state, memory_order_relaxed) != 0;
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
    atomic_compare_exchange_strong(&first_state, &none, (uintptr_t)state);
    return state;
}

#define PyModule_NewObject(name) make_module(name)

/* `module` is an expression that costs, and is evaluated only where it must be. */
#undef __Pyx_PyModule_GetState
#define __Pyx_PyModule_GetState(module) \
    ((__pyx_mstatetype *)(first_state_is_ours() ? (void *)atomic_load_explicit(&first_state, memory_order_relaxed) \
                          : state_is_found() ? state_found.state \
                          : keep_state(__Pyx__PyModule_GetState(module))))

/* Cython (3.3.1) looks for a module one entry beyond the end of its table too, where realloc has left whatever was there:
   for one, part of the table of another module, with the same interpreter. Nothing is there instead. As long as the table
   is indexed by interpreters there is no such look, and what is beyond the end has its number already. */
static inline void *grown_table(void *table, size_t entries, size_t entry_size, size_t place_of_count, bool is_indexed,
                                size_t size)
{
    Py_ssize_t count;
    char *grown = realloc(table, size);
    if (!grown || is_indexed)
        return grown;
    memcpy(&count, grown + place_of_count, sizeof count);
    size_t used = entries + (size_t)count * entry_size;
    memset(grown + used, 0, size - used);
    return grown;
}

/* Cython calls it for that table alone, whose type it has defined by then. */
#define realloc(old_table, new_size) \
    grown_table((old_table), offsetof(__Pyx_ModuleStateLookupData, table), sizeof(__Pyx_InterpreterIdAndModule), \
                offsetof(__Pyx_ModuleStateLookupData, count), \
                ((__Pyx_ModuleStateLookupData *)(old_table))->interpreter_id_as_index != 0, (new_size))

#endif
