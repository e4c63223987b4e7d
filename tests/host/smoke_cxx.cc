// SPDX-License-Identifier: MIT
// The public headers from C++: included, linked against libmello-mm-hosted.a, and called. A kernel
// in C++ needs no more than this.
#include <mm/mm.h>

#include <mm/hosted.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

int main()
{
    const std::size_t bytes = std::size_t(32) << 20;
    void *memory = std::aligned_alloc(4096, bytes);
    std::memset(memory, 0xa5, bytes);
    if (memory == nullptr || !mello_host_init(memory, bytes)) {
        std::puts("mello_host_init failed");
        return 1;
    }
    auto *block = static_cast<unsigned char *>(kmalloc(1000));
    for (int i = 0; block != nullptr && i < 1000; i++) {
        if (block[i] != 0) {
            std::puts("kmalloc gave a block that is not zero");
            return 1;
        }
    }
    if (block == nullptr || kheap_size(kheap_default(), block) < 1000) {
        std::puts("kmalloc failed");
        return 1;
    }
    kfree(block);
    if (kheap_stats(kheap_default()).used_blocks != 0 ||
        std::strcmp(mm_status_name(MM_OK), "ok") != 0) {
        std::puts("kfree left a block behind");
        return 1;
    }
    std::free(memory);
    return 0;
}
