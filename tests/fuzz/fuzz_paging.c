/* SPDX-License-Identifier: MIT */
/* libFuzzer invents programs of calls for the paging model; see tests/host/paging_model.h. */
#include "fuzz.h"
#include "tests/host/paging_model.h"

static void program(void)
{
    paging_model_set_up(fuzz_choose);
    while (fuzz_goes_on())
        paging_model_step();
    paging_model_finish();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    fuzz_run(data, bytes, program);
    return 0;
}
