/* Where the stack of this thread ends. */
#ifndef MESSAGECHANNEL_STACK_H
#define MESSAGECHANNEL_STACK_H

#include <Python.h>

#ifdef _WIN32
#include <intrin.h>
#else
#include <pthread.h>
#endif

/* An address in the stack frame of the function. Not that of a variable, which sanitizers put elsewhere. */
#ifdef _MSC_VER
#define STACK_HERE ((const char *)_AddressOfReturnAddress())
#else
#define STACK_HERE ((const char *)__builtin_frame_address(0))
#endif

/* Returns the lowest address of the stack that `here` is on, or NULL where that is unknown. */
static inline const char *stack_end(const char *here)
{
#if defined __linux__
    /* For the main thread the C library reads a file in /proc. */
    static _Thread_local void *end;
    pthread_attr_t attributes;
    size_t size;
    (void)here;
    if (!end && pthread_getattr_np(pthread_self(), &attributes) == 0) {
        if (pthread_attr_getstack(&attributes, &end, &size) != 0)
            end = NULL;
        pthread_attr_destroy(&attributes);
    }
    return end;
#elif defined __APPLE__
    (void)here;
    return (const char *)pthread_get_stackaddr_np(pthread_self()) - pthread_get_stacksize_np(pthread_self());
#else
    /* The smallest stack that a thread usually has is 1 MB. */
    return here - (1 << 19);
#endif
}

#endif
