#include "walk.h"

#include "dict_entries.h"
#include "locking.h"
#include "stack.h"

#include <string.h>

/* ---- memo ---- */

static inline size_t memo_slot(const struct memo *m, PyObject *o)
{
    uintptr_t address = (uintptr_t)o;
    return (size_t)(address >> 4 ^ address >> 12) & m->mask;
}

PyObject *memo_get(struct memo *m, PyObject *original)
{
    if (original == m->first.original)
        return m->first.clone;
    if (m->used == 0)
        return NULL;
    for (size_t i = memo_slot(m, original); m->entries[i].original; i = (i + 1) & m->mask)
        if (m->entries[i].original == original)
            return m->entries[i].clone;
    return NULL;
}

static void memo_place(struct memo *m, struct memo_entry entry)
{
    size_t i = memo_slot(m, entry.original);
    while (m->entries[i].original)
        i = (i + 1) & m->mask;
    m->entries[i] = entry;
}

static int memo_grow(struct memo *m)
{
    struct memo_entry *old = m->entries;
    size_t size = m->mask + 1, larger = size * 4;
    struct memo_entry *entries = PyMem_Calloc(larger, sizeof *entries);
    if (!entries) {
        PyErr_NoMemory();
        return -1;
    }
    m->entries = entries;
    m->mask = larger - 1;
    for (size_t i = 0; i < size; i++)
        if (old[i].original)
            memo_place(m, old[i]);
    if (old != m->initial)
        PyMem_Free(old);
    return 0;
}

int memo_put(struct memo *m, PyObject *original, PyObject *clone)
{
    if (!m->first.original) {
        m->first = (struct memo_entry){Py_NewRef(original), Py_NewRef(clone)};
        return 0;
    }
    if (m->used == 0)
        memset(m->initial, 0, sizeof m->initial);
    if (m->used * 2 > m->mask && memo_grow(m) < 0)
        return -1;
    Py_INCREF(original);
    Py_INCREF(clone);
    memo_place(m, (struct memo_entry){original, clone});
    m->used++;
    return 0;
}

static void memo_clear(struct memo *m)
{
    Py_XDECREF(m->first.original);
    Py_XDECREF(m->first.clone);
    if (m->used == 0)
        return;
    for (size_t i = 0; i <= m->mask; i++)
        if (m->entries[i].original) {
            Py_DECREF(m->entries[i].original);
            Py_DECREF(m->entries[i].clone);
        }
    if (m->entries != m->initial)
        PyMem_Free(m->entries);
}

/* ---- walk ---- */

/* CPython's garbage collector looks at what was allocated lately, again and again while a clone grows, and can find
   nothing in it. It is off while nobody's code but this runs; what is due then comes right after. */
#ifdef Py_GIL_DISABLED
static void collector_off(struct walk *w)
{
    (void)w;
}

static void collector_on(struct walk *w)
{
    (void)w;
}
#else
static void collector_off(struct walk *w)
{
    w->collects = PyGC_Disable();
}

static void collector_on(struct walk *w)
{
    if (w->collects)
        PyGC_Enable();
}
#endif

/* What a reducer returned is walked through in the midst of alien code, and may call another reducer. */
static void alien_code_begins(struct walk *w)
{
    if (w->alien_depth++ == 0)
        collector_on(w);
}

static void alien_code_ends(struct walk *w)
{
    if (--w->alien_depth == 0)
        collector_off(w);
}

enum {
    /* Bytes of stack that a walk may use without a look at how much there is. */
    STACK_UNSEEN = 1 << 14,
    STACK_MOST = 1 << 22,
    /* What is left for the code that a walk calls. */
    STACK_RESERVE = 1 << 18
};

void walk_init(struct walk *w, int recalls, PyObject *(*rebuild)(struct walk *, PyObject *),
               int (*judge)(struct walk *, PyObject *, PyObject **))
{
    w->memo.first = (struct memo_entry){NULL, NULL};
    w->memo.used = 0;
    w->memo.mask = MEMO_INITIAL - 1;
    w->memo.entries = w->memo.initial;
    memset(w->verdicts, 0, sizeof w->verdicts);
    w->floor = STACK_HERE - STACK_UNSEEN;
    w->at_floor = 0;
    w->recalls = recalls;
    w->forgot = 0;
    w->alien_depth = 0;
    w->path = NULL;
    w->rebuild = rebuild;
    w->judge = judge;
    collector_off(w);
}

void walk_clear(struct walk *w)
{
    collector_on(w);
    memo_clear(&w->memo);
    for (int i = 0; i < WALK_TYPES; i++) {
        Py_XDECREF(w->verdicts[i].type);
        Py_XDECREF(w->verdicts[i].slots);
    }
    Py_XDECREF(w->path);
}

/* Called with an address below the floor: lowers that, or sets RecursionError and returns -1. */
static int go_deeper(struct walk *w, const char *here)
{
    if (!w->at_floor) {
        const char *most = w->floor + STACK_UNSEEN - STACK_MOST, *end = stack_end(here);
        w->at_floor = 1;
        w->floor = end && end + STACK_RESERVE > most ? end + STACK_RESERVE : most;
    }
    if (here >= w->floor)
        return 0;
    PyErr_SetString(PyExc_RecursionError, "nested too deeply for a structured clone");
    return -1;
}

static PyObject *rebuild(struct walk *w, PyObject *o)
{
    PyObject *clone;
    alien_code_begins(w);
    clone = w->rebuild(w, o);
    alien_code_ends(w);
    return clone;
}

void walk_step(struct walk *w, enum step step, PyObject *key)
{
    PyObject *type, *error, *traceback, *pair;
    if (!w->path)
        return;
    PyErr_Fetch(&type, &error, &traceback);
    pair = Py_BuildValue("iO", (int)step, key);
    if (!pair || PyList_Append(w->path, pair) < 0)
        PyErr_Clear(); /* A path with a gap is better than another exception. */
    Py_XDECREF(pair);
    PyErr_Restore(type, error, traceback);
}

static void step_index(struct walk *w, Py_ssize_t index)
{
    PyObject *type, *error, *traceback, *key;
    if (!w->path)
        return;
    PyErr_Fetch(&type, &error, &traceback);
    key = PyLong_FromSsize_t(index);
    PyErr_Restore(type, error, traceback);
    if (key) {
        walk_step(w, STEP_INDEX, key);
        Py_DECREF(key);
    }
}

/* Whether nothing but `holders` references exist: what was walked to through them can't be met again, unless somebody
   makes references to it meanwhile. */
static inline int is_alone(PyObject *o, Py_ssize_t holders)
{
#ifdef Py_GIL_DISABLED
    return _Py_IsOwnedByCurrentThread(o)
           && _Py_atomic_load_uint32_relaxed(&o->ob_ref_local) <= (uint32_t)holders
           && _Py_atomic_load_ssize_relaxed(&o->ob_ref_shared) >> _Py_REF_SHARED_SHIFT == 0;
#else
    return Py_REFCNT(o) <= holders;
#endif
}

/* Whether it may be in the memo, or belongs there. */
static inline int is_shared(struct walk *w, PyObject *o, Py_ssize_t holders)
{
    if (w->recalls || !is_alone(o, holders))
        return 1;
    w->forgot = 1;
    return 0;
}

/* Puts what is `shared` into the memo. Takes over `clone`, and returns it or NULL. */
static inline PyObject *remember(struct walk *w, PyObject *original, PyObject *clone, int shared)
{
    if (clone && shared && memo_put(&w->memo, original, clone) < 0)
        Py_CLEAR(clone);
    return clone;
}

/* Returns the list's shallow copy; `*first` becomes the index of the first item in it that is no atom, or its length.
   Between the allocation and the copying no other code runs. */
static PyObject *copy_list(PyObject *list, Py_ssize_t *first)
{
    Py_ssize_t n, i = 0;
    int unchanged;
    PyObject *copy;
    do {
        n = PyList_GET_SIZE(list);
        copy = PyList_New(n);
        if (!copy)
            return NULL;
        /* Older versions collect garbage when they allocate, and a destructor may have changed the list. */
        Py_BEGIN_CRITICAL_SECTION(list);
        unchanged = PyList_GET_SIZE(list) == n;
        if (unchanged) {
            PyObject **source = ((PyListObject *)list)->ob_item, **target = ((PyListObject *)copy)->ob_item;
            for (; i < n && is_atom(source[i]); i++) {
                Py_INCREF(source[i]);
                target[i] = source[i];
            }
            *first = i;
            for (; i < n; i++) {
                Py_INCREF(source[i]);
                target[i] = source[i];
            }
        }
        Py_END_CRITICAL_SECTION();
        if (!unchanged)
            Py_DECREF(copy);
    } while (!unchanged);
    return copy;
}

static PyObject *clone_list(struct walk *w, PyObject *list, int shared)
{
    Py_ssize_t i;
    PyObject *copy = remember(w, list, copy_list(list, &i), shared);
    if (!copy)
        return NULL;
    for (; i < PyList_GET_SIZE(copy); i++) {
        PyObject *item = PyList_GET_ITEM(copy, i), *clone;
        if (is_atom(item))
            continue;
        /* Held by the list, the copy and this. Other code can reach a copy that is in the memo, and change it. */
        Py_INCREF(item);
        clone = walk_clone(w, item, 3);
        Py_DECREF(item);
        if (!clone) {
            step_index(w, i);
            Py_DECREF(copy);
            return NULL;
        }
        if (clone == item || i >= PyList_GET_SIZE(copy))
            Py_DECREF(clone);
        else
            PyList_SetItem(copy, i, clone);
    }
    return copy;
}

/* Replaces the value in a shallow copy of a dict that dict_next returned with `position` by its clone. Returns -1 with an
   exception set. */
static int clone_value(struct walk *w, PyObject *copy, Py_ssize_t position, PyObject *key, PyObject *value,
                       enum step step)
{
    PyObject *clone;
    int error = 0;
    Py_INCREF(key);
    Py_INCREF(value);
    /* Held by the dict, the copy and this. */
    clone = walk_clone(w, value, 3);
    if (!clone)
        walk_step(w, step, key);
    else if (clone != value)
        error = dict_replace(copy, position, key, clone);
    Py_DECREF(key);
    Py_DECREF(value);
    Py_XDECREF(clone);
    return clone ? error : -1;
}

/* Fills a shallow copy of a dict anew, whose keys have clones with hashes of their own. What comes before item number
   `done` has been cloned. Returns -1 with an exception set. */
static int clone_keys_and_values(struct walk *w, PyObject *copy, Py_ssize_t done)
{
    PyObject *items = PyDict_Items(copy);
    int error = items ? 0 : -1;
    if (items) {
        /* Nobody must find and change what is gone through with borrowed references. */
        PyObject_GC_UnTrack(items);
        PyDict_Clear(copy);
    }
    for (Py_ssize_t i = 0; !error && i < PyList_GET_SIZE(items); i++) {
        PyObject *key = PyTuple_GET_ITEM(PyList_GET_ITEM(items, i), 0);
        PyObject *value = PyTuple_GET_ITEM(PyList_GET_ITEM(items, i), 1);
        PyObject *new_value = NULL, *new_key = i < done ? Py_NewRef(key) : walk_clone(w, key, 0);
        if (!new_key)
            walk_step(w, STEP_KEY, key);
        else if (!(new_value = i < done ? Py_NewRef(value) : walk_clone(w, value, 2)))
            walk_step(w, STEP_VALUE, key);
        alien_code_begins(w);
        error = new_value ? PyDict_SetItem(copy, new_key, new_value) : -1;
        alien_code_ends(w);
        Py_XDECREF(new_key);
        Py_XDECREF(new_value);
    }
    Py_XDECREF(items);
    return error;
}

/* Clones the item number `done` of a shallow copy of a dict, whose key is no atom, and all that come after it if need be:
   `*position` is past them then. Returns -1 with an exception set. */
static int clone_item(struct walk *w, PyObject *copy, Py_ssize_t done, Py_ssize_t *position, PyObject *key,
                      PyObject *value)
{
    PyObject *clone;
    int error = 0;
    /* The methods of a key can reach a copy that is in the memo, and empty it. */
    Py_INCREF(key);
    Py_INCREF(value);
    clone = walk_clone(w, key, 0);
    if (!clone) {
        walk_step(w, STEP_KEY, key);
        error = -1;
    }
    else if (clone != key) {
        error = clone_keys_and_values(w, copy, done);
        *position = PY_SSIZE_T_MAX;
    }
    else if (!is_atom(value))
        error = clone_value(w, copy, *position, key, value, STEP_VALUE);
    Py_XDECREF(clone);
    Py_DECREF(key);
    Py_DECREF(value);
    return error;
}

static PyObject *clone_dict(struct walk *w, PyObject *dict, int shared)
{
    Py_ssize_t position = 0;
    PyObject *key, *value, *copy = remember(w, dict, PyDict_Copy(dict), shared);
    for (Py_ssize_t done = 0; copy && dict_next(copy, &position, &key, &value); done++) {
        int error = 0;
        if (!is_atom(key))
            error = clone_item(w, copy, done, &position, key, value);
        else if (!is_atom(value))
            error = clone_value(w, copy, position, key, value, STEP_VALUE);
        if (error)
            Py_CLEAR(copy);
    }
    return copy;
}

/* A tuple is in the memo only once it is complete, and so can be walked again inside of itself: what it holds can be met
   again then, unless the tuple is alone. */
static PyObject *clone_tuple(struct walk *w, PyObject *tuple, Py_ssize_t holders)
{
    Py_ssize_t n = PyTuple_GET_SIZE(tuple), i = 0;
    PyObject *copy = NULL, *known;
    int shared;
    while (i < n && is_atom(PyTuple_GET_ITEM(tuple, i)))
        i++;
    if (i == n)
        return Py_NewRef(tuple);
    shared = is_shared(w, tuple, holders);
    if (shared && (known = memo_get(&w->memo, tuple)))
        return Py_NewRef(known);
    for (; i < n; i++) {
        PyObject *item = PyTuple_GET_ITEM(tuple, i), *clone;
        if (is_atom(item))
            clone = Py_NewRef(item);
        else if (!(clone = walk_clone(w, item, shared ? 0 : 1))) {
            step_index(w, i);
            Py_XDECREF(copy);
            return NULL;
        }
        if (clone != item && !copy) {
            copy = PyTuple_New(n);
            if (!copy) {
                Py_DECREF(clone);
                return NULL;
            }
            /* Nobody must find a tuple that is not complete. */
            PyObject_GC_UnTrack(copy);
            for (Py_ssize_t k = 0; k < i; k++)
                PyTuple_SET_ITEM(copy, k, Py_NewRef(PyTuple_GET_ITEM(tuple, k)));
        }
        if (copy)
            PyTuple_SET_ITEM(copy, i, clone);
        else
            Py_DECREF(clone);
    }
    if (copy)
        PyObject_GC_Track(copy);
    else
        copy = Py_NewRef(tuple);
    if (shared && (known = memo_get(&w->memo, tuple))) {
        /* It was met again inside a container of its own, and is complete. */
        Py_DECREF(copy);
        return Py_NewRef(known);
    }
    return remember(w, tuple, copy, shared);
}

/* Returns 1 if all items of a set or frozenset are atoms, else 0, or -1 with an exception set. */
static int has_only_atoms(PyObject *set)
{
    int atoms = 1;
    PyObject *item, *items = PyObject_GetIter(set);
    if (!items)
        return -1;
    while (atoms && (item = PyIter_Next(items))) {
        atoms = is_atom(item);
        Py_DECREF(item);
    }
    Py_DECREF(items);
    return PyErr_Occurred() ? -1 : atoms;
}

/* Adds the clones of a set's items to a list or another set; `holders` as for walk_clone. Returns 1 if any differs from
   its original, else 0, or -1 with an exception set. */
static int clone_items(struct walk *w, PyObject *set, Py_ssize_t holders, PyObject *target,
                       int (*add)(PyObject *, PyObject *))
{
    int differs = 0, error = 0;
    PyObject *item, *items = PyObject_GetIter(set);
    if (!items)
        return -1;
    while (!error && (item = PyIter_Next(items))) {
        PyObject *clone = is_atom(item) ? Py_NewRef(item) : walk_clone(w, item, holders);
        if (!clone)
            walk_step(w, STEP_ITEM, item);
        else
            differs |= clone != item;
        alien_code_begins(w);
        error = !clone || add(target, clone) < 0;
        alien_code_ends(w);
        Py_DECREF(item);
        Py_XDECREF(clone);
    }
    Py_DECREF(items);
    return error || PyErr_Occurred() ? -1 : differs;
}

static PyObject *clone_frozenset(struct walk *w, PyObject *set, Py_ssize_t holders)
{
    PyObject *list, *copy = NULL, *known;
    int shared, differs, atoms = has_only_atoms(set);
    if (atoms)
        return atoms < 0 ? NULL : Py_NewRef(set);
    shared = is_shared(w, set, holders);
    if (shared && (known = memo_get(&w->memo, set)))
        return Py_NewRef(known);
    list = PyList_New(0);
    if (!list)
        return NULL;
    /* As with a tuple: clone_tuple. */
    differs = clone_items(w, set, shared ? 0 : 2, list, PyList_Append);
    if (differs >= 0) {
        alien_code_begins(w);
        copy = differs ? PyFrozenSet_New(list) : Py_NewRef(set);
        alien_code_ends(w);
    }
    Py_DECREF(list);
    if (copy && shared && (known = memo_get(&w->memo, set))) {
        Py_DECREF(copy);
        return Py_NewRef(known);
    }
    return remember(w, set, copy, shared);
}

static PyObject *clone_set(struct walk *w, PyObject *set, int shared)
{
    PyObject *copy, *snapshot = PySet_New(set);
    int atoms = snapshot ? has_only_atoms(snapshot) : -1;
    if (atoms < 0) {
        Py_XDECREF(snapshot);
        return NULL;
    }
    if (atoms)
        return remember(w, set, snapshot, shared);
    copy = remember(w, set, PySet_New(NULL), shared);
    if (copy && clone_items(w, snapshot, 3, copy, PySet_Add) < 0)
        Py_CLEAR(copy);
    Py_DECREF(snapshot);
    return copy;
}

static PyObject *clone_bytearray(PyObject *array)
{
    PyObject *copy;
    Py_BEGIN_CRITICAL_SECTION(array);
    copy = PyByteArray_FromStringAndSize(PyByteArray_AS_STRING(array), PyByteArray_GET_SIZE(array));
    Py_END_CRITICAL_SECTION();
    return copy;
}

/* ---- objects ---- */

static int is_dunder(PyObject *name)
{
    return PyUnicode_GET_LENGTH(name) > 4 && PyUnicode_READ_CHAR(name, 0) == '_' && PyUnicode_READ_CHAR(name, 1) == '_';
}

PyObject *type_lookup(PyObject *type, PyObject *name)
{
#ifdef Py_GIL_DISABLED
    /* Types keep what they have as long as it is compared here. */
    PyObject *found = _PyType_LookupRef((PyTypeObject *)type, name);
    Py_XDECREF(found);
    return found;
#else
    return _PyType_Lookup((PyTypeObject *)type, name);
#endif
}

int is_simple(PyObject *cls, PyObject *hooks)
{
    PyTypeObject *type = (PyTypeObject *)cls;
    if (type->tp_new != PyBaseObject_Type.tp_new || type->tp_itemsize != 0
        || type->tp_getattro != PyObject_GenericGetAttr)
        return 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(hooks); i++) {
        PyObject *name = PyTuple_GET_ITEM(hooks, i);
        if (type_lookup(cls, name) != type_lookup((PyObject *)&PyBaseObject_Type, name))
            return 0;
    }
    return 1;
}

int is_all_state(PyObject *cls, PyObject *slots)
{
    PyTypeObject *type = (PyTypeObject *)cls;
    Py_ssize_t pointers = (type->tp_dictoffset > 0) + (type->tp_weaklistoffset > 0) + (slots ? PyList_GET_SIZE(slots) : 0);
    return type->tp_basicsize <= PyBaseObject_Type.tp_basicsize + pointers * (Py_ssize_t)sizeof(PyObject *);
}

/* Returns a shallow copy of an object's __dict__, or None if pickle would notice something in it: a name that it calls
   itself, or one that is no str. */
static PyObject *copy_attributes(PyObject *o)
{
    Py_ssize_t position = 0;
    PyObject *key, *value, *copy, *dict = PyObject_GenericGetDict(o, NULL);
    if (!dict)
        return NULL;
    copy = PyDict_Copy(dict);
    Py_DECREF(dict);
    while (copy && dict_next(copy, &position, &key, &value))
        if (!PyUnicode_CheckExact(key) || is_dunder(key)) {
            Py_DECREF(copy);
            return Py_NewRef(Py_None);
        }
    return copy;
}

/* Sets an attribute in the object itself, whatever a descriptor in its type has to say. A small object keeps its
   attributes in itself as long as nobody asks for its __dict__. */
static int set_attribute(PyObject *o, PyObject *name, PyObject *value)
{
    PyObject *dict, *descriptor = type_lookup((PyObject *)Py_TYPE(o), name);
    int error;
    if (!descriptor || !Py_TYPE(descriptor)->tp_descr_set)
        return PyObject_GenericSetAttr(o, name, value);
    dict = PyObject_GenericGetDict(o, NULL);
    error = dict ? PyDict_SetItem(dict, name, value) : -1;
    Py_XDECREF(dict);
    return error;
}

/* Gives `target` the clones of attributes. */
static int clone_attributes(struct walk *w, PyObject *target, PyObject *attributes)
{
    Py_ssize_t position = 0;
    PyObject *name, *value;
    while (dict_next(attributes, &position, &name, &value)) {
        PyObject *clone = is_atom(value) ? Py_NewRef(value) : walk_clone(w, value, 2);
        int error = !clone;
        if (!clone)
            walk_step(w, STEP_ATTRIBUTE, name);
        else
            error = set_attribute(target, name, clone) < 0;
        Py_XDECREF(clone);
        if (error)
            return -1;
    }
    return 0;
}

static int clone_slots(struct walk *w, PyObject *o, PyObject *target, PyObject *slots)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(slots); i++) {
        PyObject *name = Py_NewRef(PyList_GET_ITEM(slots, i)), *value, *clone;
        int error = 0;
        alien_code_begins(w);
        value = PyObject_GetAttr(o, name);
        alien_code_ends(w);
        if (value) {
            clone = is_atom(value) ? Py_NewRef(value) : walk_clone(w, value, 0);
            if (!clone)
                walk_step(w, STEP_ATTRIBUTE, name);
            alien_code_begins(w);
            error = !clone || PyObject_SetAttr(target, name, clone) < 0;
            alien_code_ends(w);
            Py_XDECREF(clone);
            Py_DECREF(value);
        }
        else if (PyErr_ExceptionMatches(PyExc_AttributeError))
            PyErr_Clear();
        else
            error = 1;
        Py_DECREF(name);
        if (error)
            return -1;
    }
    return 0;
}

static PyObject *clone_plain(struct walk *w, PyObject *o, PyObject *slots, int shared)
{
    PyObject *attributes = NULL, *none, *clone;
    if (Py_TYPE(o)->tp_dictoffset != 0) {
        attributes = copy_attributes(o);
        if (!attributes)
            return NULL;
        if (attributes == Py_None) {
            Py_DECREF(attributes);
            return rebuild(w, o);
        }
    }
    none = PyTuple_New(0);
    clone = none ? remember(w, o, PyBaseObject_Type.tp_new(Py_TYPE(o), none, NULL), shared) : NULL;
    Py_XDECREF(none);
    if (clone && attributes && clone_attributes(w, clone, attributes) < 0)
        Py_CLEAR(clone);
    if (clone && slots && clone_slots(w, o, clone, slots) < 0)
        Py_CLEAR(clone);
    Py_XDECREF(attributes);
    return clone;
}

static struct verdict *verdict_on(struct walk *w, PyObject *o)
{
    PyTypeObject *type = Py_TYPE(o); /* Its metaclass can make of `o` an instance of another type. */
    struct verdict *v = &w->verdicts[((uintptr_t)type >> 5 ^ (uintptr_t)type >> 9) % WALK_TYPES];
    if (v->type != type) {
        PyObject *slots = NULL;
        int kind;
        Py_INCREF(type);
        alien_code_begins(w);
        kind = w->judge(w, o, &slots);
        alien_code_ends(w);
        if (kind < 0) {
            Py_DECREF(type);
            return NULL;
        }
        Py_XDECREF(v->type);
        Py_XDECREF(v->slots);
        *v = (struct verdict){type, slots, (enum kind)kind};
    }
    return v;
}

static PyObject *clone_object(struct walk *w, PyObject *o, int shared)
{
    struct verdict *v = verdict_on(w, o);
    PyObject *clone, *slots;
    if (!v)
        return NULL;
    if (v->kind == KIND_REFERENCE)
        return Py_NewRef(o);
    if (v->kind == KIND_REDUCED)
        return rebuild(w, o);
    slots = Py_XNewRef(v->slots);
    clone = clone_plain(w, o, slots, shared);
    Py_XDECREF(slots);
    return clone;
}

/* Clones what may be in the memo, or belongs there. */
static PyObject *clone_known_or_new(struct walk *w, PyObject *o, PyTypeObject *type, Py_ssize_t holders)
{
    PyObject *known;
    int shared = is_shared(w, o, holders);
    if (shared && (known = memo_get(&w->memo, o)))
        return Py_NewRef(known);
    if (type == &PyDict_Type)
        return clone_dict(w, o, shared);
    if (type == &PyList_Type)
        return clone_list(w, o, shared);
    if (type == &PySet_Type)
        return clone_set(w, o, shared);
    if (type == &PyByteArray_Type)
        return remember(w, o, clone_bytearray(o), shared);
    return clone_object(w, o, shared);
}

PyObject *walk_clone(struct walk *w, PyObject *o, Py_ssize_t holders)
{
    if (is_atom(o))
        return Py_NewRef(o);
    if (STACK_HERE < w->floor && go_deeper(w, STACK_HERE) < 0)
        return NULL;
    /* These two may turn out to be immutable, and then need no memo. */
    if (Py_TYPE(o) == &PyTuple_Type)
        return clone_tuple(w, o, holders);
    if (Py_TYPE(o) == &PyFrozenSet_Type)
        return clone_frozenset(w, o, holders);
    return clone_known_or_new(w, o, Py_TYPE(o), holders);
}
