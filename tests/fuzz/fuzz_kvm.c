/* SPDX-License-Identifier: MIT */
/* libFuzzer invents programs of calls for kernel virtual memory; see tests/host/kvm_model.h. */
#include "fuzz.h"
#include "tests/host/kvm_model.h"

static void program(void)
{
    kvm_model_set_up(fuzz_choose);
    while (fuzz_goes_on())
        kvm_model_step();
    kvm_model_finish();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    fuzz_run(data, bytes, program);
    return 0;
}
