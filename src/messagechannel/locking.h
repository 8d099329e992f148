/* CPython's critical sections, where they exist: with the GIL they are nothing. */
#ifndef MESSAGECHANNEL_LOCKING_H
#define MESSAGECHANNEL_LOCKING_H

#include <Python.h>

#if PY_VERSION_HEX < 0x030D0000
#define Py_BEGIN_CRITICAL_SECTION(o) {
#define Py_END_CRITICAL_SECTION() }
#define Py_BEGIN_CRITICAL_SECTION2(a, b) {
#define Py_END_CRITICAL_SECTION2() }
#endif

#endif
