/* SPDX-License-Identifier: MIT */
/* The owner of an address space, who needs no lock for single pages (mm/paging_owner.h): how one becomes
 * it, and that nobody works in the space beside it.
 *
 *      region of thread t:  REGION + t * 2 MiB, single pages in a table of their own
 *
 * ThreadSanitizer runs this program too: the owner's work and that of the lock's holders must be ordered by
 * the protocol alone. */
#include "threads.h"
#include "walker.h"

#include "mm/paging_owner.h"

#include <mm/audit.h>

#include <poll.h>

#define REGION ((vaddr_t)0xffffa00000000000)
#define RW     (PAGING_READ | PAGING_WRITE)
#define FRAME  MM_GIB(4)
#define TOTAL  3u
#define VISITS 16u /* single pages under the lock that make the first owner */
#define CALLS  3000u
#define LINE   0u

static struct machine machine;
static struct address_space space;
static unsigned wrong;

static void set_up(void)
{
    struct mm_cpu_features features = features_of(4, 46, true);

    machine_set_up_simple(&machine, MM_MIB(1));
    assert_ok(paging_init(&space, &machine.pmm, &features));
    wrong = 0;
}

static void tear_down(void)
{
    assert_space_sound(&space);
    paging_destroy(&space);
    assert_pmm_sound(&machine.pmm);
}

static vaddr_t page_of(size_t thread, uint64_t number)
{
    return REGION + thread * LARGE_PAGE_SIZE + number * PAGE_SIZE;
}

/* Maps and unmaps so many pairs of pages beside one that stays, so that the table does. */
static void use_pages(size_t thread, uint64_t pairs)
{
    for (uint64_t i = 0; i < pairs; i++) {
        vaddr_t page = page_of(thread, 1 + i % 500);
        paddr_t frame = 0;

        if (paging_map_page(&space, page, FRAME + page - REGION, RW) != MM_OK ||
            paging_protect_page(&space, page, PAGING_READ) != MM_OK ||
            paging_unmap_page(&space, page, &frame) != MM_OK || frame != FRAME + page - REGION)
            count(&wrong);
    }
}

static struct space_place *own_place(void)
{
    return &space_places[mm_port_cpu_slot()];
}

static struct space_place *owner_now(void)
{
    return __atomic_load_n(&space.owner, __ATOMIC_ACQUIRE);
}

/* ---- Coming and going ---- */

static void *ask_body(void *unused)
{
    struct paging_mapping mapping;

    (void)unused;
    if (paging_query(&space, page_of(0, 0), &mapping) != MM_OK || mapping.frame != FRAME)
        count(&wrong);
    return NULL;
}

static void ask_elsewhere(void)
{
    threads_run(1, ask_body);
}

static void owner_is_who_uses_single_pages_alone(void **state)
{
    (void)state;
    set_up();
    assert_ok(paging_map_page(&space, page_of(0, 0), FRAME, RW));
    assert_null(owner_now());
    use_pages(0, VISITS);
    assert_ptr_equal(owner_now(), own_place());
    assert_null(own_place()->inside);
    /* Its own slow ways leave it the owner. */
    assert_ok(paging_map_range(&space, page_of(1, 0), MM_MIB(2), LARGE_PAGE_SIZE, RW));
    assert_ok(paging_unmap_range(&space, page_of(1, 0), LARGE_PAGE_SIZE));
    ask_body(NULL);
    assert_ptr_equal(owner_now(), own_place());
    for (uint64_t revoked = 1; revoked <= 4; revoked++) {
        ask_elsewhere();
        assert_null(owner_now());
        use_pages(0, ((VISITS << revoked) - 1) / 3); /* not quite so many as it takes now */
        assert_null(owner_now());
        use_pages(0, 1);
        assert_ptr_equal(owner_now(), own_place());
    }
    assert_ok(paging_unmap_page(&space, page_of(0, 0), NULL));
    assert_int_equal(counted(&wrong), 0);
    assert_int_equal(space.stats.leaves[0], 0);
    tear_down();
}

/* ---- Inside ---- */

static unsigned left;

/* The owner is inside while this begins. */
static void *wait_body(void *unused)
{
    ask_body(unused);
    if (counted(&left) == 0)
        count(&wrong);
    return NULL;
}

/* A thief that did not wait would have some time to show it; one that does, passes however long this
 * takes. */
static void owner_inside_is_waited_for(void **state)
{
    struct space_turn turn = { NULL, 0 };
    pthread_t thread;

    (void)state;
    set_up();
    left = 0;
    assert_ok(paging_map_page(&space, page_of(0, 0), FRAME, RW));
    use_pages(0, VISITS);
    assert_true(space_enter(&space, &turn));
    threads_start(&thread, 1, wait_body);
    while (owner_now() != NULL)
        (void)poll(NULL, 0, 1);
    (void)poll(NULL, 0, 20);
    count(&left);
    space_leave(&turn);
    threads_join(&thread, 1);
    assert_int_equal(counted(&wrong), 0);
    assert_false(space_enter(&space, &turn));
    assert_ok(paging_unmap_page(&space, page_of(0, 0), NULL));
    tear_down();
}

static unsigned handled;

static void handler(void)
{
    ask_body(NULL);
    use_pages(1, 2);
    count(&handled);
}

/* It has a slot of its own, so it sends the owner away; it does not come while the owner is inside. */
static void owner_is_not_interrupted_inside(void **state)
{
    struct space_turn turn = { NULL, 0 };

    (void)state;
    set_up();
    handled = 0;
    assert_true(hosted_interrupt_attach(LINE, 0, handler));
    assert_ok(paging_map_page(&space, page_of(0, 0), FRAME, RW));
    use_pages(0, VISITS);
    assert_true(space_enter(&space, &turn));
    hosted_interrupt_raise(LINE);
    assert_int_equal(counted(&handled), 0);
    assert_ptr_equal(owner_now(), turn.place);
    space_leave(&turn);
    assert_int_equal(counted(&handled), 1);
    assert_null(owner_now());
    hosted_interrupt_detach(LINE);
    assert_ok(paging_unmap_page(&space, page_of(0, 0), NULL));
    assert_int_equal(counted(&wrong), 0);
    tear_down();
}

/* ---- Everybody who wants the space ---- */

static struct address_space user;
static struct paging_window window;

static bool never_fill(void *context, struct address_space *filled, vaddr_t address, uint64_t error)
{
    (void)context;
    (void)filled;
    (void)address;
    (void)error;
    return false;
}

static void own_in_handler(void)
{
    use_pages(1, VISITS);
}

/* Makes the slot of an interrupt handler the owner. */
static void let_handler_own(void)
{
    hosted_interrupt_raise(LINE);
    assert_ptr_equal(owner_now(), own_place() + 1);
}

static mm_status_t want_map_page(void)
{
    return paging_map_page(&space, page_of(0, 1), FRAME, RW);
}

static mm_status_t want_map_range(void)
{
    return paging_map_range(&space, page_of(2, 0), MM_MIB(2), LARGE_PAGE_SIZE, RW);
}

static mm_status_t want_protect_page(void)
{
    return paging_protect_page(&space, page_of(0, 0), PAGING_READ);
}

static mm_status_t want_protect_range(void)
{
    return paging_protect_range(&space, page_of(0, 0), PAGE_SIZE, PAGING_READ);
}

static mm_status_t want_remap(void)
{
    return paging_remap_range(&space, page_of(0, 0), FRAME + FRAME_SIZE, PAGE_SIZE, RW);
}

static mm_status_t want_unmap_page(void)
{
    return paging_unmap_page(&space, page_of(0, 0), NULL);
}

static mm_status_t want_unmap_range(void)
{
    return paging_unmap_range(&space, page_of(0, 0), PAGE_SIZE);
}

static mm_status_t want_query_of_user(void)
{
    struct paging_mapping mapping;

    return paging_query(&user, page_of(0, 0), &mapping);
}

static mm_status_t want_next_run(void)
{
    struct paging_run run;

    return paging_next_run(&space, 0, &run) ? MM_OK : MM_NOT_MAPPED;
}

static mm_status_t want_watch(void)
{
    window = (struct paging_window){ page_of(3, 0), PAGE_SIZE, never_fill, NULL, NULL };
    mm_status_t status = paging_watch(&space, &window);

    assert_null(owner_now());
    let_handler_own();
    paging_unwatch(&space, &window);
    return status;
}

static mm_status_t want_share(void)
{
    struct address_space other;
    mm_status_t status = paging_create_user(&other, &space);

    assert_null(owner_now());
    let_handler_own();
    if (status == MM_OK)
        paging_destroy(&other);
    return status;
}

/* The guards are looked at without the lock of the whole: an owner may have come back. */
static void guards(void *context, void (*visit)(void *argument, vaddr_t base, uint64_t bytes),
                   void *argument)
{
    (void)context;
    assert_null(owner_now());
    let_handler_own();
    visit(argument, page_of(3, 0), PAGE_SIZE);
}

static mm_status_t audit_of(struct address_space *audited)
{
    const struct audit_rules rules = { .guards = guards };
    struct audit_result result;

    return paging_audit(audited, &rules, &result);
}

static mm_status_t want_audit(void)
{
    return audit_of(&space);
}

static mm_status_t want_audit_of_user(void)
{
    return audit_of(&user);
}

static void everybody_who_wants_the_space_sends_the_owner_away(void **state)
{
    static mm_status_t (*const wants[])(void) = {
        want_map_page,   want_map_range,   want_protect_page,  want_protect_range, want_remap,
        want_unmap_page, want_unmap_range, want_query_of_user, want_next_run,      want_watch,
        want_share,      want_audit,       want_audit_of_user,
    };

    (void)state;
    assert_true(hosted_interrupt_attach(LINE, 0, own_in_handler));
    for (size_t i = 0; i < sizeof wants / sizeof wants[0]; i++) {
        set_up();
        assert_ok(paging_create_user(&user, &space));
        assert_ok(paging_map_page(&space, page_of(0, 0), FRAME, RW));
        assert_ok(paging_map_page(&space, page_of(1, 0), FRAME, RW));
        let_handler_own();
        assert_ok(wants[i]());
        if (owner_now() != NULL)
            fail_msg("the owner stays at number %zu", i);
        assert_int_equal(counted(&wrong), 0);
        paging_destroy(&user);
        tear_down();
    }
    hosted_interrupt_detach(LINE);
}

/* A space that goes has no owner to send away: the next one at its address begins without. */
static void space_goes_with_its_owner(void **state)
{
    struct mm_cpu_features features = features_of(4, 46, true);

    (void)state;
    set_up();
    assert_true(hosted_interrupt_attach(LINE, 0, own_in_handler));
    assert_ok(paging_map_page(&space, page_of(1, 0), FRAME, RW));
    let_handler_own();
    paging_destroy(&space);
    assert_ok(paging_init(&space, &machine.pmm, &features));
    assert_null(owner_now());
    assert_ok(paging_map_page(&space, page_of(0, 0), FRAME, RW));
    use_pages(0, VISITS);
    assert_ptr_equal(owner_now(), own_place());
    assert_int_equal(counted(&wrong), 0);
    hosted_interrupt_detach(LINE);
    tear_down();
}

/* However often owners were sent away, a million pages are enough for the next one. */
static void patience_has_an_end(void **state)
{
    (void)state;
    set_up();
    assert_true(hosted_interrupt_attach(LINE, 0, own_in_handler));
    assert_ok(paging_map_page(&space, page_of(0, 0), FRAME, RW));
    assert_ok(paging_map_page(&space, page_of(1, 0), FRAME, RW));
    let_handler_own();
    space.revoked = 15;
    ask_body(NULL);
    assert_int_equal(space.visits, MM_MIB(1));
    space.visits = 1;
    hosted_interrupt_raise(LINE);
    space.visits = 1;
    let_handler_own();
    ask_body(NULL);
    assert_int_equal(space.visits, MM_MIB(1));
    assert_int_equal(space.revoked, 16);
    assert_int_equal(counted(&wrong), 0);
    hosted_interrupt_detach(LINE);
    tear_down();
}

static void *own_body(void *unused)
{
    (void)unused;
    use_pages(1, VISITS);
    if (owner_now() != own_place())
        count(&wrong);
    return NULL;
}

/* The next thread gets the number of the one that ended, and its slot with the space. */
static void *inherit_body(void *unused)
{
    (void)unused;
    if (owner_now() != own_place())
        count(&wrong);
    use_pages(1, 1);
    return NULL;
}

static void owner_may_end(void **state)
{
    (void)state;
    set_up();
    assert_ok(paging_map_page(&space, page_of(0, 0), FRAME, RW));
    assert_ok(paging_map_page(&space, page_of(1, 0), FRAME, RW));
    threads_run(1, own_body);
    assert_non_null(owner_now());
    threads_run(1, inherit_body);
    assert_non_null(owner_now());
    ask_body(NULL);
    assert_null(owner_now());
    assert_int_equal(counted(&wrong), 0);
    tear_down();
}

/* ---- Several threads ---- */

/* Each becomes the owner in turn, then all of them work at once. */
static void *threads_body(void *argument)
{
    size_t self = (size_t)argument - 1;

    if (paging_map_page(&space, page_of(self, 0), FRAME + self * LARGE_PAGE_SIZE, RW) != MM_OK)
        count(&wrong);
    for (size_t turn = 0; turn < TOTAL; turn++) {
        threads_meet();
        if (turn != self)
            continue;
        use_pages(self, VISITS << turn);
        if (owner_now() != own_place())
            count(&wrong);
    }
    threads_meet();
    for (uint64_t i = 0; i < CALLS; i++) {
        use_pages(self, 1 + i % 7);
        if (i % 64 == 0)
            ask_body(NULL);
    }
    threads_meet();
    if (paging_unmap_page(&space, page_of(self, 0), NULL) != MM_OK)
        count(&wrong);
    return NULL;
}

static void owner_changes_and_nothing_is_lost(void **state)
{
    (void)state;
    set_up();
    threads_run(TOTAL, threads_body);
    assert_int_equal(counted(&wrong), 0);
    assert_true(space.revoked >= TOTAL - 1);
    assert_int_equal(space.stats.leaves[0], 0);
    assert_int_equal(space.stats.table_frames, 1);
    tear_down();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(owner_is_who_uses_single_pages_alone),
        TEST(owner_inside_is_waited_for),
        TEST(owner_is_not_interrupted_inside),
        TEST(everybody_who_wants_the_space_sends_the_owner_away),
        TEST(space_goes_with_its_owner),
        TEST(patience_has_an_end),
        TEST(owner_may_end),
        TEST(owner_changes_and_nothing_is_lost),
    };

    return RUN_TESTS(tests);
}
