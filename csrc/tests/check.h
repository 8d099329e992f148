/* check: an assertion that stays when NDEBUG is defined. */
#ifndef MESSAGECHANNEL_CHECK_H
#define MESSAGECHANNEL_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition) ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition))

/* _Exit: other threads may be running, and what exit would tear down is theirs, too. */
static inline _Noreturn void check_failed(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, condition);
    _Exit(1);
}

#endif
