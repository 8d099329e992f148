/* Types that Cython made, as users see them. */
#ifndef MESSAGECHANNEL_TYPE_HOME_H
#define MESSAGECHANNEL_TYPE_HOME_H

#include <Python.h>

/* Gives a type the name by which users import it, as `package.name`, and makes it as immutable as built-in types are.
   Returns -1 with an exception set. */
static inline int bring_home(PyTypeObject *type, const char *package, const char *name)
{
    PyObject *module = PyUnicode_FromString(package);
    int error = module ? PyDict_SetItemString(type->tp_dict, "__module__", module) : -1;
    Py_XDECREF(module);
    type->tp_name = name;
    type->tp_flags |= Py_TPFLAGS_IMMUTABLETYPE;
    PyType_Modified(type);
    return error;
}

#endif
