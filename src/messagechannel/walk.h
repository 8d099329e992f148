/* The walk of a structured clone over exact builtin containers and plain objects.

   A container is first copied as it is, by CPython's own shallow copy: that is one consistent snapshot. Then whatever
   in the copy is not immutable is replaced by its clone. What this file does not know, `rebuild` clones by the protocol
   of pickle.

   Memory.  The memo owns what it maps from and what it maps to, so that no address in it is used again during the walk.
   A container whose references are all accounted for by the parent that is being walked can be met only once: it is not
   in the memo (`holders`, below). That no longer holds when a reducer makes references of its own, out of a weak one or
   of its parents' items. So once one is met the walk begins again, and remembers everything (`recalls`). */
#ifndef MESSAGECHANNEL_WALK_H
#define MESSAGECHANNEL_WALK_H

#include <Python.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __GNUC__
#define OUT_OF_LINE __attribute__((noinline, unused))
#else
#define OUT_OF_LINE
#endif

static OUT_OF_LINE int is_rarer_atom(PyObject *o)
{
    PyTypeObject *type = Py_TYPE(o);
    return o == Py_None || type == &PyFloat_Type || type == &PyBytes_Type || type == &PyBool_Type
           || type == &PyComplex_Type;
}

/* Tells the commonest immutable values by their exact type alone. In one function, compilers would compare every value
   with all of the types. */
static inline int is_atom(PyObject *o)
{
    return Py_TYPE(o) == &PyLong_Type || Py_TYPE(o) == &PyUnicode_Type || is_rarer_atom(o);
}

enum { MEMO_INITIAL = 32, WALK_TYPES = 8 };

struct memo_entry {
    PyObject *original;
    PyObject *clone;
};

/* An open-addressed table with linear probing, which lies in the walk itself while it is small. The value that is cloned
   has a place of its own: mostly there is no other entry. */
struct memo {
    struct memo_entry first;
    size_t used, mask;
    struct memo_entry *entries;
    struct memo_entry initial[MEMO_INITIAL];
};

/* What is done with the instances of exactly one type. */
enum kind {
    KIND_REFERENCE = 1, /* immutable all the way down */
    KIND_PLAIN,         /* all its state is in __dict__ and slots: see is_simple */
    KIND_REDUCED        /* anything else */
};

struct verdict {
    PyTypeObject *type; /* owned, lest another type gets its address */
    PyObject *slots;    /* of KIND_PLAIN: a list of names, or NULL */
    enum kind kind;
};

/* How a path goes on from a value to a part of it. */
enum step { STEP_INDEX, STEP_VALUE, STEP_KEY, STEP_ITEM, STEP_ATTRIBUTE };

struct walk {
    struct memo memo;
    struct verdict verdicts[WALK_TYPES];
    /* The lowest stack address that the walk may reach; see go_deeper. */
    const char *floor;
    int at_floor;
    /* Whether everything goes into the memo, and whether anything did not. */
    int recalls, forgot;
    /* Whether the garbage collector is on where other code runs. */
    int collects;
    /* How many calls of other code are under way, one inside another. */
    int alien_depth;
    /* Once something was refused: the steps to it, innermost first, as (step, key) tuples; owned. Else NULL. */
    PyObject *path;
    /* Returns a new reference to the clone of what has no walk here. */
    PyObject *(*rebuild)(struct walk *, PyObject *);
    /* Returns the kind of an object's type, or -1 with an exception set; sets the slots of KIND_PLAIN. */
    int (*judge)(struct walk *, PyObject *, PyObject **slots);
};

void walk_init(struct walk *, int recalls, PyObject *(*rebuild)(struct walk *, PyObject *),
               int (*judge)(struct walk *, PyObject *, PyObject **));
void walk_clear(struct walk *);

/* Returns a new reference to the clone of `o`, or NULL with an exception set. `holders` is the number of references to
   `o` that the caller can account for: its own, and those of the parent that is being walked. */
PyObject *walk_clone(struct walk *, PyObject *o, Py_ssize_t holders);

/* Returns a borrowed reference, or NULL without an exception. */
PyObject *memo_get(struct memo *, PyObject *original);
/* Returns 0, or -1 with an exception set. */
int memo_put(struct memo *, PyObject *original, PyObject *clone);

/* While an exception goes up: adds a step to the path of what was refused; nothing if nothing was. */
void walk_step(struct walk *, enum step, PyObject *key);

/* KIND_PLAIN is what pickle would take apart by object.__reduce_ex__ and nothing else, and put together by
   object.__new__, __dict__, and setattr for slots.

   Whether the type leaves all that to object: `hooks` are the names that must mean what they mean for object. */
int is_simple(PyObject *cls, PyObject *hooks);
/* Whether the instances have no state that only C code knows of; `slots` is what copyreg._slotnames says, or NULL. */
int is_all_state(PyObject *cls, PyObject *slots);

/* Returns a borrowed reference to what a type and its bases have by that name, or NULL without an exception. */
PyObject *type_lookup(PyObject *type, PyObject *name);

#endif
