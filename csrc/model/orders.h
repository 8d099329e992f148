/* The memory order of every atomic access in csrc/ring.h, ring.c, pool.c, lock.h, channel.c, parker.c, byte_ring.h
 * and byte_ring.c, in the order of the sources:
 *
 *     #define NAME ORDER    function: operation object
 *
 * The models use the names; tools/model compares the table with the sources, function by function, so that an order that
 * is changed there and not here fails the check.  A name with _FAILURE is the second order of a compare-and-swap.  `none`
 * instead of a name: not modelled; the README of this directory says why.
 */
#define RELAXED 0
#define ACQUIRE 1
#define RELEASE 2
#define ACQ_REL 3
#define SEQ_CST 7 /* the bits: acquire, release, and part of the one total order */

/* ring.h */
#define CLOSED_TAIL SEQ_CST       /* ring_closed: load tail */
/* none RELAXED                      ring_tail: load tail */
/* none RELAXED                      ring_is_armed: load tail */
/* none RELAXED                      ring_has_room: load credits */
#define SWAP_TAIL SEQ_CST         /* ring_swap_tail: compare_exchange tail */
#define SWAP_TAIL_FAILURE RELAXED /* ring_swap_tail: compare_exchange tail */
#define TAKE_TOKEN ACQUIRE        /* ring_take_token: exchange token */
#define DROP_TOKEN RELEASE        /* ring_drop_token: store token */
#define OUTCOME_ANNOUNCE SEQ_CST  /* ring_outcome: load announce */
#define PUSH_TAIL RELAXED         /* ring_push: load tail */
#define PUSH_SLOT RELEASE         /* ring_push: store slot */
#define LOOK_TAIL ACQUIRE         /* ring_look_at_tail: load tail */
#define POP_HEAD ACQUIRE          /* ring_pop: load head */
#define POP_SLOT ACQUIRE          /* ring_pop: load slot */
/* ring.c */
/* none ACQUIRE                      ring_disarm: load tail */
#define GET_SPARE ACQUIRE         /* segment_get: exchange spare */
#define RESET_NEXT RELAXED        /* segment_get: store next */
#define RESET_FIRST RELAXED       /* segment_get: store first */
#define RESET_SLOT RELAXED        /* segment_get: store slot */
#define PUT_SPARE ACQ_REL         /* segment_put: exchange spare */
/* none RELAXED                      ring_destroy: load head */
/* none RELAXED                      ring_destroy: load next */
/* none RELAXED                      ring_destroy: load spare */
#define EDGE_OLD_FIRST RELAXED    /* publish_edge: load first */
#define EDGE_NEW_FIRST RELAXED    /* publish_edge: store first */
#define EDGE_NEXT RELEASE         /* publish_edge: store next */
#define EDGE_SLOT RELEASE         /* publish_edge: store slot */
#define BEGIN_FIRST RELAXED       /* publish_edge: store first */
#define BEGIN_SLOT RELEASE        /* publish_edge: store slot */
#define BEGIN_HEAD RELEASE        /* publish_edge: store head */
#define RETRIED_SLOT RELEASE      /* ring_push_edge: store slot */
#define MANY_TAIL RELAXED         /* ring_push_many: load tail */
#define MANY_SLOT RELEASE         /* ring_push_many: store slot */
#define CLOSE_TAIL RELAXED        /* ring_close: load tail */
#define SPIN_TOKEN RELAXED        /* ring_take_token_slow: load token */
#define TAKE_TOKEN_SLOW ACQUIRE   /* ring_take_token_slow: exchange token */
#define POPPED_HEAD ACQUIRE       /* popped: load head */
#define POPPED_FIRST RELAXED      /* popped: load first */
#define CLAIMED_FIRST RELAXED     /* claimed: load first */
#define NUMBER_NEXT RELAXED       /* number_next: store first */
#define NUMBER_OWN RELAXED        /* number_next: load first */
#define NOW_TAIL SEQ_CST          /* claimed_by_now: load tail */
#define NOW_HEAD ACQUIRE          /* claimed_by_now: load head */
#define NOW_NEXT ACQUIRE          /* claimed_by_now: load next */
#define WAITING_FIRST RELAXED     /* ring_waiting: load first */
#define LEAVE_NEXT ACQUIRE        /* ring_next_segment: load next */
#define LEAVE_HEAD RELAXED        /* ring_next_segment: store head */
#define POP_MANY_HEAD ACQUIRE     /* ring_pop_many: load head */
#define POP_MANY_SLOT ACQUIRE     /* ring_pop_many: load slot */
#define EMPTY_HEAD ACQUIRE        /* is_empty: load head */
#define ARM_TAIL ACQUIRE          /* ring_arm: load tail */
#define DRAINED_TAIL ACQUIRE      /* ring_drained: load tail */
#define ANNOUNCE_STORE SEQ_CST    /* ring_announce: store announce */
/* none ACQUIRE                      ring_visit: load head */
/* none ACQUIRE                      ring_visit: load next */
/* none ACQUIRE                      ring_visit: load slot */
#define RESERVE_LOAD SEQ_CST      /* ring_reserve: load credits */
#define RESERVE_SWAP SEQ_CST      /* ring_reserve: compare_exchange credits */
#define RESERVE_FAILURE SEQ_CST   /* ring_reserve: compare_exchange credits */
#define RETURN_ROOM SEQ_CST       /* ring_return_room: fetch_add credits */
/* pool.c */
/* none RELAXED                      pool_put: load place */
/* none RELEASE                      pool_put: compare_exchange place */
/* none RELAXED                      pool_put: compare_exchange place */
/* none RELAXED                      pool_get: load place */
/* none ACQUIRE                      pool_get: exchange place */
/* lock.h */
#define LOCK ACQUIRE              /* spin_acquire: exchange l */
#define UNLOCK RELEASE            /* spin_release: store l */
/* channel.c */
/* none RELAXED                      channel_incref: fetch_add references */
/* none ACQ_REL                      channel_decref: fetch_sub references */
/* none RELAXED                      channel_decref: load transport */
/* none RELEASE                      channel_connect: compare_exchange transport */
/* none RELAXED                      channel_connect: compare_exchange transport */
#define OFFER_CREDITS SEQ_CST     /* offer_room: load credits */
/* none ACQ_REL                      channel_close: compare_exchange closed_by */
/* none ACQUIRE                      channel_close: compare_exchange closed_by */
/* parker.c */
#define PARK ACQUIRE              /* parker_park: exchange token */
#define PARK_AT_DEADLINE ACQUIRE  /* parker_park: exchange token */
/* none ACQUIRE                      parker_park: exchange token */
#define UNPARK RELEASE            /* parker_unpark: store token */
/* none RELEASE                      parker_unpark: store token */
/* byte_ring.h */
/* none RELAXED                      byte_ring_consumer_closed: load head */
/* none RELAXED                      byte_ring_append: store header */
#define BYTES_STORE RELEASE       /* byte_ring_store: exchange word */
/* none RELAXED                      byte_ring_count: store counter */
/* none RELAXED                      byte_ring_count: load counter */
/* none RELAXED                      byte_ring_peek: load header */
/* byte_ring.c */
/* none RELAXED                      byte_ring_attach_producer: load tail */
/* none ACQUIRE                      byte_ring_attach_producer: load head */
/* none RELAXED                      byte_ring_attach_consumer: load head */
/* none RELAXED                      byte_ring_attach_consumer: load tail */
/* none RELAXED                      messages_in: load published */
/* none RELAXED                      messages_in: load taken */
/* none ACQUIRE                      byte_ring_waiting: load head */
/* none ACQUIRE                      byte_ring_waiting: load tail */
#define BYTES_HEAD ACQUIRE        /* byte_ring_look_at_head: load head */
#define BYTES_ARM_HEAD ACQUIRE    /* byte_ring_arm_producer: compare_exchange head */
#define BYTES_ARM_HEAD_FAILURE RELAXED /* byte_ring_arm_producer: compare_exchange head */
#define BYTES_TAIL ACQUIRE        /* byte_ring_look_at_tail: load tail */
/* none RELAXED                      byte_ring_look_at_tail: load peak */
/* none RELAXED                      byte_ring_look_at_tail: store peak */
#define BYTES_ARM_TAIL RELAXED    /* byte_ring_arm_consumer: compare_exchange tail */
#define BYTES_ARM_TAIL_FAILURE RELAXED /* byte_ring_arm_consumer: compare_exchange tail */
