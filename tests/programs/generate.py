# SPDX-License-Identifier: MIT
"""Writes a C file that gives a compiler something to do.

usage: generate.py FUNCTIONS >FILE.c
"""
import sys


def function(n):
    lines = ["int f%d(int a, int b)" % n, "{", "    struct s%d x = { a, b, { 0 } };" % (n % 20)]
    for i in range(12):
        lines.append("    for (int i = 0; i < %d; i++)" % (i + n % 5 + 2))
        lines.append("        x.c[i %% 8] += (x.a ^ %d) * i + x.b / %d;" % (n * 31 + i, i + 1))
        lines.append("    if (x.c[%d] > %d)" % (i % 8, n))
        lines.append("        x.a -= x.c[%d] %% %d;" % ((i + 3) % 8, i + 2))
    if n > 0:
        lines.append("    x.b += f%d(x.a, x.c[1]);" % (n - 1))
    lines += ["    switch (x.a & 15) {"]
    lines += ["    case %d: return x.b + x.c[%d];" % (i, i % 8) for i in range(16)]
    lines += ["    }", "    return x.a;", "}"]
    return lines


def main():
    out = []
    for n in range(20):
        out.append("struct s%d { int a, b; int c[8]; };" % n)
    for n in range(int(sys.argv[1])):
        out += function(n)
    print("\n".join(out))


main()
