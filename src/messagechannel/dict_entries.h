/* Going through a dict, and replacing values on the way, without a lookup for each.

   CPython has no such functions, and so this looks into the entries of the commonest kind of dict, where the layout is
   known: CPython 3.11 to 3.13 with the GIL, a table of its own, all keys str. Everything else takes the public way. A
   position means the same in both. tests/test_clone_properties.py notices when the layout is another. */
#ifndef MESSAGECHANNEL_DICT_ENTRIES_H
#define MESSAGECHANNEL_DICT_ENTRIES_H

#include <Python.h>

#if !defined Py_GIL_DISABLED && PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030E0000
#define HAVE_DICT_ENTRIES
/* A macro of the public headers of CPython 3.12 whose name the internal ones use for a function. */
#undef _PyGC_FINALIZED
#define Py_BUILD_CORE
#include <internal/pycore_dict.h>
#undef Py_BUILD_CORE
#endif

/* PyDict_Next, inline. */
static inline int dict_next(PyObject *dict, Py_ssize_t *position, PyObject **key, PyObject **value)
{
#ifdef HAVE_DICT_ENTRIES
    PyDictObject *d = (PyDictObject *)dict;
    if (!d->ma_values && DK_IS_UNICODE(d->ma_keys)) {
        PyDictUnicodeEntry *entries = DK_UNICODE_ENTRIES(d->ma_keys);
        Py_ssize_t i = *position;
        while (i < d->ma_keys->dk_nentries && !entries[i].me_value)
            i++;
        if (i >= d->ma_keys->dk_nentries)
            return 0;
        *position = i + 1;
        *key = entries[i].me_key;
        *value = entries[i].me_value;
        return 1;
    }
#endif
    return PyDict_Next(dict, position, key, value);
}

/* Replaces the value of the key that dict_next returned with `position`; other code may have changed the dict since. */
static inline int dict_replace(PyObject *dict, Py_ssize_t position, PyObject *key, PyObject *value)
{
#ifdef HAVE_DICT_ENTRIES
    PyDictObject *d = (PyDictObject *)dict;
    if (!d->ma_values && DK_IS_UNICODE(d->ma_keys) && position <= d->ma_keys->dk_nentries
        && PyObject_GC_IsTracked(dict)) {
        PyDictUnicodeEntry *entry = &DK_UNICODE_ENTRIES(d->ma_keys)[position - 1];
        PyObject *old = entry->me_value;
        if (entry->me_key == key && old) {
            entry->me_value = Py_NewRef(value);
            Py_DECREF(old);
            return 0;
        }
    }
#endif
    (void)position;
    return PyDict_SetItem(dict, key, value);
}

#endif
