#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Makes a bootable image, for BIOS and UEFI, CD and USB stick.
#
#   loader/mkiso.sh OUT.iso LOADER.elf KERNEL.elf LINES [MODULE LINE]...
#
#   LINES     a file: the kernel's command line, then (may be missing) the loader's keys
#   MODULE    a further file; LINE is its name and what else it is told
#
# GRUB starts the loader by Multiboot2. Where Limine is installed (`limine` is found, or LIMINE_DIR
# names its files) that starts the kernel instead, and the loader's keys must be empty. GRUB writes
# a backslash before quotes and backslashes, and parts lines at every run of spaces: a line with one
# of these characters is refused, runs of spaces become one. The image appears whole or not at all.

set -u

die() {
    echo "mkiso: $*" >&2
    exit 1
}

[ $# -ge 4 ] || die "usage: mkiso.sh OUT.iso LOADER.elf KERNEL.elf LINES [MODULE LINE]..."
out=$1 loader=$2 kernel=$3 lines=$4
shift 4
work=$(mktemp -d "$out.XXXXXX") || die "cannot write beside $out"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
tree=$work/tree
mkdir -p "$tree/boot/grub" || exit 1
cp "$kernel" "$tree/boot/kernel.elf" || exit 1

# The line as words for grub.cfg, each in quotes, so that nothing in it is a command or a variable.
quoted() {
    case $1 in
        *[\\\"\']* | *'
'*) die "GRUB cannot pass on quotes, backslashes or line breaks: $1" ;;
    esac
    set -f
    for word in $1; do
        printf " '%s'" "$word"
    done
    set +f
}

kernel_line=$(sed -n 1p "$lines") || die "cannot read $lines"
loader_line=$(sed -n 2p "$lines")

# ---- GRUB ----------------------------------------------------------------------------------------

# What GRUB needs besides its core: the protocol, the menu, the file system, video, and every kind of
# partition table, which it looks for on a stick. All of them exist for BIOS and for UEFI.
modules='multiboot2 normal iso9660 all_video part_acorn part_amiga part_apple part_bsd part_dfly
    part_dvh part_gpt part_msdos part_plan part_sun part_sunpc'

grub_config() {
    loader_words=$(quoted "$loader_line") && kernel_words=$(quoted "$kernel_line") || exit 1
    printf 'set timeout=0\nset default=0\ninsmod all_video\nmenuentry "MelloOS" {\n'
    printf '    multiboot2 /boot/loader.elf%s\n' "$loader_words"
    printf '    module2 /boot/kernel.elf%s\n' "$kernel_words"
    number=0
    while [ $# -ge 2 ]; do
        number=$((number + 1))
        words=$(quoted "$2") || exit 1
        printf '    module2 /boot/module%s%s\n' "$number" "$words"
        shift 2
    done
    printf '}\n'
}

make_with_grub() {
    cp "$loader" "$tree/boot/loader.elf" || exit 1
    grub_config "$@" >"$tree/boot/grub/grub.cfg" || exit 1
    number=0
    while [ $# -ge 2 ]; do
        number=$((number + 1))
        cp "$1" "$tree/boot/module$number" || exit 1
        shift 2
    done
    grub-mkrescue -o "$work/iso" --install-modules="$modules" --fonts= --locales= --themes= \
        "$tree" -- -volid MELLOOS >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; die "grub-mkrescue failed"; }
}

# ---- Limine --------------------------------------------------------------------------------------

limine_folder() {
    if [ -n "${LIMINE_DIR-}" ]; then
        [ -e "$LIMINE_DIR/limine-bios-cd.bin" ] ||
            die "LIMINE_DIR=$LIMINE_DIR: there is no limine-bios-cd.bin"
        printf '%s' "$LIMINE_DIR"
    elif command -v limine >/dev/null; then
        limine --print-datadir
    fi
}

limine_config() {
    printf 'timeout: 0\n\n/MelloOS\n    protocol: limine\n    path: boot():/boot/kernel.elf\n'
    printf '    cmdline: %s\n' "$kernel_line"
    number=0
    while [ $# -ge 2 ]; do
        number=$((number + 1))
        printf '    module_path: boot():/boot/module%s\n    module_cmdline: %s\n' "$number" "$2"
        shift 2
    done
}

make_with_limine() {
    [ -z "$loader_line" ] || die "keys of our loader mean nothing to Limine: $loader_line"
    mkdir -p "$tree/boot/limine" "$tree/EFI/BOOT" || exit 1
    limine_config "$@" >"$tree/boot/limine/limine.conf"
    number=0
    while [ $# -ge 2 ]; do
        number=$((number + 1))
        cp "$1" "$tree/boot/module$number" || exit 1
        shift 2
    done
    for file in limine-bios.sys limine-bios-cd.bin limine-uefi-cd.bin; do
        cp "$limine/$file" "$tree/boot/limine/" || exit 1
    done
    cp "$limine/BOOTX64.EFI" "$tree/EFI/BOOT/" || exit 1
    xorriso -as mkisofs -V MELLOOS -R -r -J -b boot/limine/limine-bios-cd.bin -no-emul-boot \
        -boot-load-size 4 -boot-info-table -hfsplus -apm-block-size 2048 \
        --efi-boot boot/limine/limine-uefi-cd.bin -efi-boot-part --efi-boot-image \
        --protective-msdos-label -o "$work/iso" "$tree" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; die "xorriso failed"; }
    tool=limine
    [ ! -x "$limine/limine" ] || tool=$limine/limine
    "$tool" bios-install "$work/iso" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; die "limine bios-install failed"; }
}

limine=$(limine_folder) || exit 1
if [ -n "$limine" ]; then
    make_with_limine "$@"
else
    make_with_grub "$@"
fi
mv -f "$work/iso" "$out" || die "cannot write $out"
