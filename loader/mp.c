/* SPDX-License-Identifier: MIT */
/* The MP request: the machine's other processors, started and waiting for the kernel.
 *
 *   MADT -> mp_cpus[]  | id, uid, state | ...      the loader's record, in the MADT's order
 *           mp_infos[] | id, uid, goto  | ...      the kernel's, one for each record
 *           response -> pointers to the infos of those that run
 *
 *   state   HERE                       the boot processor
 *           WAITING -> PARKED          started, and arrived on the kernel's tables (ap.S)
 *                   -> GIVEN_UP        no arrival in time
 *
 * All are reset, started and awaited together (SDM vol. 3A, 8.4.4.1), so 254 of them cost one reset
 * delay. Arrival is polled, and only a pause of MP_PATIENCE_SECONDS without any arrival ends it: an
 * emulator may run all processors on one host thread. One that is given up is reset again, so that
 * it cannot come late into memory that has another owner by then. Everything that a waiting
 * processor uses is loader (bootloader reclaimable) memory: trampoline page, stack, its info, this
 * loader's text and GDT, the tables. */
#include "loader/mp.h"

#include "loader/acpi.h"
#include "loader/ap.h"
#include "loader/clock.h"
#include "loader/cpu.h"
#include "loader/handover.h"
#include "loader/lapic.h"
#include "loader/machine.h"
#include "loader/memory.h"
#include "loader/mtrr.h"
#include "loader/print.h"
#include "loader/text.h"
#include "loader/trap.h"

#define MP_HERE        0 /* besides AP_WAITING and what follows it */
#define MP_UNREACHABLE 4 /* its id does not fit into an xAPIC's message */

#define MP_PATIENCE_SECONDS 5
#define MP_RESET_US         10000
#define MP_START_US         200

#define TRAMPOLINE_END 0xa0000ul /* start messages for pages A0h to BFh are reserved */

#define DMAR_FLAGS      37
#define DMAR_OPT_OUT    2 /* the firmware asks to leave x2APIC off */
#define CR4_PAE         0x00000020u
#define CR4_LA57        0x00001000u
#define MP_ACPI_UNKNOWN 0xffffffffu

struct mp_cpu {
    uint32_t lapic_id;
    uint32_t acpi_uid;
    uint32_t state;
};

static const struct mp_facts *facts;
static struct mp_cpu *mp_cpus;
static struct limine_mp_info *mp_infos;
static size_t mp_count;
static bool mp_x2apic;

const uint64_t *ap_stack_tops;
uint32_t ap_stack_count;
uint32_t ap_stacks_taken;

static uint32_t mp_state(const struct mp_cpu *cpu)
{
    return __atomic_load_n(&cpu->state, __ATOMIC_ACQUIRE);
}

static size_t mp_count_state(uint32_t state)
{
    size_t count = 0;

    for (size_t i = 0; i < mp_count; i++) {
        count += mp_state(&mp_cpus[i]) == state;
    }
    return count;
}

static struct mp_cpu *mp_find(uint32_t lapic_id)
{
    for (size_t i = 0; i < mp_count; i++) {
        if (mp_cpus[i].lapic_id == lapic_id) {
            return &mp_cpus[i];
        }
    }
    return NULL;
}

/* x2APIC mode: where the kernel asks for it, the CPU has it and the firmware does not object; or
 * where the firmware has switched it on already. */
static void mp_choose_apic_mode(bool wanted)
{
    const struct acpi_table *dmar = acpi_find(facts->source->rsdp, "DMAR");
    bool refused = dmar != NULL && dmar->bytes > DMAR_FLAGS &&
                   (((const uint8_t *)dmar)[DMAR_FLAGS] & DMAR_OPT_OUT) != 0;

    if (wanted && lapic_has_x2apic() && !refused && !lapic_is_x2apic()) {
        lapic_enable_x2apic();
    }
    mp_x2apic = lapic_is_x2apic();
}

static void mp_add(uint32_t lapic_id, uint32_t acpi_uid)
{
    struct mp_cpu *cpu = &mp_cpus[mp_count];

    cpu->lapic_id = mp_infos[mp_count].lapic_id = lapic_id;
    cpu->acpi_uid = mp_infos[mp_count].acpi_uid = acpi_uid;
    cpu->state = mp_x2apic || lapic_id <= LAPIC_ID_MOST ? AP_WAITING : MP_UNREACHABLE;
    mp_count++;
}

/* Fills mp_cpus[] and mp_infos[]. The boot processor is in them even where the MADT forgot it. */
static void mp_collect(const struct acpi_table *madt)
{
    size_t room = madt_list_cpus(madt, NULL) + 1;
    struct madt_cpu *listed =
        phys_pointer(memory_alloc_zeroed(room * sizeof *listed, "the list of processors"));

    mp_cpus = phys_pointer(memory_alloc_zeroed(room * sizeof *mp_cpus, "the list of processors"));
    mp_infos = phys_pointer(memory_alloc_zeroed(room * sizeof *mp_infos, "the list of processors"));
    size_t count = madt_list_cpus(madt, listed);
    for (size_t i = 0; i < count; i++) {
        mp_add(listed[i].lapic_id, listed[i].acpi_uid);
    }
    if (mp_find(lapic_id()) == NULL) {
        print_line("MP: the MADT does not list the boot processor (local APIC id %u)", lapic_id());
        mp_add(lapic_id(), MP_ACPI_UNKNOWN);
    }
    mp_find(lapic_id())->state = MP_HERE;
}

/* Takes the highest usable page that a start message can name; 0 when there is none. Page 0 stays
 * out: it holds the real-mode interrupt table, for whoever still looks there. */
static uint64_t mp_take_trampoline(void)
{
    for (size_t i = memory_count(); i-- > 0;) {
        const struct memory_range *range = memory_get(i);
        uint64_t end = range->end < TRAMPOLINE_END ? range->end : TRAMPOLINE_END;
        uint64_t least = range->base > PAGE_BYTES ? range->base : PAGE_BYTES;

        if (range->type == MEMORY_USABLE && end >= least + PAGE_BYTES) {
            memory_take(end - PAGE_BYTES, end, MEMORY_LOADER);
            return end - PAGE_BYTES;
        }
    }
    return 0;
}

static void mp_patch_trampoline(uint64_t page, const char *field, uint32_t value)
{
    memcpy(phys_pointer(page + (uint64_t)(field - ap_trampoline)), &value, sizeof value);
}

static void mp_write_trampoline(uint64_t page)
{
    memcpy(phys_pointer(page), ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
    mp_patch_trampoline(page, ap_trampoline_root,
                        (uint32_t)handover_build_bridge(facts->hhdm, facts->root));
    mp_patch_trampoline(page, ap_trampoline_cr4,
                        CR4_PAE | (facts->hhdm->levels == 5 ? CR4_LA57 : 0));
}

static void mp_prepare_stacks(size_t count)
{
    uint64_t *tops = phys_pointer(memory_alloc_zeroed(count * sizeof *tops, "the list of stacks"));

    for (size_t i = 0; i < count; i++) {
        tops[i] = memory_alloc(facts->stack_bytes, PAGE_BYTES, MEMORY_LOADER,
                               "another processor's stack") +
                  align_down(facts->stack_bytes, 16);
    }
    ap_stack_tops = tops;
    ap_stack_count = (uint32_t)count;
}

/* loader.lostcpu: a processor that is sent no start message does what a broken one does. */
static bool mp_is_lost(const struct mp_cpu *cpu)
{
    return facts->options->lost_cpu_given && facts->options->lost_cpu == cpu->lapic_id;
}

static void mp_send_init(void)
{
    for (size_t i = 0; i < mp_count; i++) {
        if (mp_state(&mp_cpus[i]) == AP_WAITING) {
            lapic_send_init(mp_cpus[i].lapic_id);
        }
    }
    clock_wait_us(MP_RESET_US);
}

/* A processor that runs already ignores the message. */
static void mp_send_start(uint64_t page)
{
    for (size_t i = 0; i < mp_count; i++) {
        if (mp_state(&mp_cpus[i]) == AP_WAITING && !mp_is_lost(&mp_cpus[i])) {
            lapic_send_start(mp_cpus[i].lapic_id, page);
        }
    }
    clock_wait_us(MP_START_US);
}

static void mp_await(void)
{
    size_t waiting = mp_count_state(AP_WAITING);
    uint64_t last = clock_ticks();

    while (waiting > 0 && clock_ticks() - last < MP_PATIENCE_SECONDS * CLOCK_HZ) {
        size_t now = mp_count_state(AP_WAITING);

        if (now < waiting) {
            waiting = now;
            last = clock_ticks();
        }
        cpu_pause();
    }
}

static void mp_give_up_rest(void)
{
    for (size_t i = 0; i < mp_count; i++) {
        struct mp_cpu *cpu = &mp_cpus[i];
        uint32_t expected = AP_WAITING;

        if (__atomic_compare_exchange_n(&cpu->state, &expected, AP_GIVEN_UP, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            lapic_send_init(cpu->lapic_id);
            print_line("MP: processor with local APIC id %u (ACPI UID %u) did not start; left out",
                       cpu->lapic_id, cpu->acpi_uid);
        } else if (expected == MP_UNREACHABLE) {
            print_line("MP: processor with local APIC id %u (ACPI UID %u) needs x2APIC; left out",
                       cpu->lapic_id, cpu->acpi_uid);
        }
    }
}

static void mp_start(void)
{
    size_t count = mp_count_state(AP_WAITING);

    if (count > 0) {
        uint64_t page = mp_take_trampoline();

        if (page == 0) {
            print_line("MP: no usable page below 640 KB to start processors in");
        } else {
            mp_prepare_stacks(count);
            mp_write_trampoline(page);
            mtrr_save();
            clock_start();
            mp_send_init();
            mp_send_start(page);
            mp_send_start(page);
            mp_await();
        }
    }
    mp_give_up_rest();
}

/* In an AP, on the identity map, on its own stack; others run this at the same time. */
_Noreturn void ap_main(uint64_t stack_top)
{
    trap_load();
    machine_prepare_cpu();
    mtrr_apply();
    if (mp_x2apic && !lapic_is_x2apic()) {
        lapic_enable_x2apic();
    }
    struct mp_cpu *cpu = mp_find(lapic_id());
    if (cpu == NULL) {
        cpu_halt(); /* its id is not the MADT's: the boot processor says who is missing */
    }
    struct limine_mp_info *info = &mp_infos[cpu - mp_cpus];
    const struct ap_park park = {
        .kernel_root = facts->root,
        .hhdm_offset = facts->hhdm->offset,
        .stack_top = facts->hhdm->offset + stack_top,
        .info = hhdm_address(facts->hhdm, info),
        .state = hhdm_address(facts->hhdm, &cpu->state),
    };

    ap_park(&park);
}

static void mp_respond(struct limine_request *request)
{
    uint64_t bytes = sizeof(struct limine_mp_response) + mp_count * sizeof(uint64_t);
    struct limine_mp_response *response =
        phys_pointer(memory_alloc_zeroed(bytes, "the list of processors"));
    uint64_t *pointers = (uint64_t *)(response + 1);

    for (size_t i = 0; i < mp_count; i++) {
        uint32_t state = mp_state(&mp_cpus[i]);

        if (state == MP_HERE || state == AP_PARKED) {
            pointers[response->cpu_count++] = hhdm_address(facts->hhdm, &mp_infos[i]);
        }
    }
    response->flags = mp_x2apic ? LIMINE_MP_X2APIC : 0;
    response->bsp_lapic_id = lapic_id();
    response->cpus = hhdm_address(facts->hhdm, pointers);
    request->response = hhdm_address(facts->hhdm, response);
    print_line("MP: %lu of %lu processors run, boot processor has local APIC id %u, %s",
               response->cpu_count, mp_count, response->bsp_lapic_id,
               mp_x2apic ? "x2APIC" : "xAPIC");
}

void mp_answer(const struct mp_facts *given, struct limine_request *request)
{
    const struct acpi_table *madt;

    if (request == NULL) {
        return;
    }
    facts = given;
    if (!lapic_is_usable()) {
        print_line("MP: no local APIC; the request stays unanswered");
        return;
    }
    madt = acpi_find(facts->source->rsdp, "APIC");
    if (madt == NULL) {
        print_line("MP: no ACPI MADT; the request stays unanswered");
        return;
    }
    mp_choose_apic_mode((request->extra[0] & LIMINE_MP_X2APIC) != 0);
    mp_collect(madt);
    mp_start();
    mp_respond(request);
}
