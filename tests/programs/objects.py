# SPDX-License-Identifier: MIT
"""Many Python objects of many sizes and lifetimes; prints digests that depend on all of them.

usage: objects.py [scale]      run with PYTHONHASHSEED=0, and PYTHONMALLOC=malloc for a malloc per object
"""
import gc
import hashlib
import json
import os
import subprocess
import sys
import threading
import zlib

SCALE = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0


def times(count):
    return max(1, int(count * SCALE))


class Node:
    def __init__(self, key, left=None, right=None):
        self.key, self.left, self.right = key, left, right
        self.extra = {"key": key, "text": str(key) * 3}


def insert(root, key):
    while True:
        side = "left" if key < root.key else "right"
        child = getattr(root, side)
        if child is None:
            setattr(root, side, Node(key))
            return
        root = child


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trees():
    seed, keys = 12345, []
    root = Node(0)
    for _ in range(times(6000)):
        seed = (seed * 1103515245 + 12345) % 2**31
        keys.append(seed)
        insert(root, seed)
    walk, stack, node = [], [], root
    while stack or node:
        while node:
            stack.append(node)
            node = node.left
        node = stack.pop()
        walk.append(node.key)
        node = node.right
    assert walk == sorted([0] + keys)
    return digest(str(walk))


def texts():
    words = {}
    for i in range(times(40000)):
        word = "w%d" % (i * i % 9973)
        words.setdefault(word, []).append(i)
    assert sum(map(len, words.values())) == times(40000)
    text = json.dumps(words, sort_keys=True)
    assert json.loads(text) == words
    packed = zlib.compress(text.encode(), 6)
    assert zlib.decompress(packed).decode() == text
    return digest(text)


def buffers():
    blocks, total = [], 0
    for i in range(times(600)):
        block = bytearray(b"%d," % i) * (1 + i * 37 % 9000)
        blocks.append(block)
        if i % 3 == 0:
            total += zlib.crc32(blocks.pop(i % len(blocks)))
    for block in blocks:
        block += b"end"
        assert block.endswith(b",end")
        total += zlib.crc32(block)
    assert not any(bytearray(times(3_000_000)))
    return str(total)


def cycles():
    class Ring:
        pass

    for _ in range(times(3000)):
        a, b = Ring(), Ring()
        a.other, b.other, a.load = b, a, list(range(20))
    found = gc.collect()
    assert found >= 0
    big = 1
    for i in range(1, times(1200)):
        big *= i
    return digest(hex(big))


def in_threads():
    results = [None] * 4

    def work(n):
        results[n] = digest("".join(str(i * n) for i in range(times(20000))))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return digest(str(results))


def children():
    pid = os.fork()
    if pid == 0:
        ok = texts() == texts()
        os._exit(0 if ok else 1)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status
    shown = subprocess.run([sys.executable, "-c", "print(sum(range(100)))"], check=True,
                           capture_output=True, text=True)
    return shown.stdout.strip()


def main():
    for part in (trees, texts, buffers, cycles, in_threads, children):
        print(part.__name__, part())


main()
