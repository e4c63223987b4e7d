/* SPDX-License-Identifier: MIT */
/* libFuzzer invents programs of calls for the pmm model; see tests/host/pmm_model.h. */
#include "fuzz.h"
#include "tests/host/pmm_model.h"

static void program(void)
{
    unsigned flags = pmm_model_set_up(fuzz_choose);

    while (fuzz_goes_on())
        pmm_model_step(flags);
    pmm_model_finish();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    fuzz_run(data, bytes, program);
    return 0;
}
