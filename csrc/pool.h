/* pool: a few segments that no ring needs at the moment, for all rings of the process (each module of the extension that
 * pushes and pops has a pool of its own).
 *
 * Where a consumer takes what has gathered, it frees many segments at once, and then the producers want as many.  Memory
 * that one thread allocates and another frees is what allocators are slowest at; so what does not fit into a ring's own
 * spare goes to the next who needs one by here.
 *
 * Any thread may call any of it at any time, and none waits.
 */
#ifndef MESSAGECHANNEL_POOL_H
#define MESSAGECHANNEL_POOL_H

#include <stdbool.h>

/* How many it keeps at most. */
#ifndef POOL_PLACES
#define POOL_PLACES 16u
#endif

/* False when it is full, and the segment stays the caller's. */
bool pool_put(void *segment);
/* NULL when it is empty. */
void *pool_get(void);

#endif
