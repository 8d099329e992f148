/* byte_ring_steps: compiled before every source of a build (-include), it tells of each store of the byte ring to shared
 * memory, so that a process can end right behind it. */
#ifndef MESSAGECHANNEL_BYTE_RING_STEPS_H
#define MESSAGECHANNEL_BYTE_RING_STEPS_H

enum step {
    STEP_HEADER,
    STEP_PUBLISHED,
    STEP_TAIL,
    STEP_TAIL_ARMED,
    STEP_TAKEN,
    STEP_HEAD,
    STEP_HEAD_ARMED,
    STEP_PEAK,
    STEP_PAYLOAD /* the test's own */
};

void byte_ring_step(enum step step);

#define BYTE_RING_STEP(store) byte_ring_step(STEP_##store)

#endif
