/* SPDX-License-Identifier: MIT */
/* libFuzzer invents programs of calls for the heap model; see tests/host/heap_model.h. */
#include "fuzz.h"
#include "tests/host/heap_model.h"

static void program(void)
{
    enum heap_model_kind kind = fuzz_choose(2) == 0 ? HEAP_MODEL_REGION : HEAP_MODEL_GROWN;
    enum kheap_level level = fuzz_choose(2) == 0 ? KHEAP_DEFAULT : KHEAP_FULL;

    heap_model_set_up(fuzz_choose, kind, level);
    while (fuzz_goes_on())
        heap_model_step();
    heap_model_finish();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    fuzz_run(data, bytes, program);
    return 0;
}
