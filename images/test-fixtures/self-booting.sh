#!/bin/bash
# Converts a built debian-12 image to a disk with a boot loader, for end-to-end tests that need a publisher's cloud image.
# SeaBIOS starts the boot record, which starts syslinux from a FAT partition with kernel and initrd; the second partition is
# the root. Needs neither loop devices nor mounts nor root.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

die() {
  echo "self-booting: $*" >&2
  exit 1
}

(($# == 2)) || die 'usage: images/test-fixtures/self-booting.sh DEBIAN_12_DIR OUT.qcow2'
image=$1 out=$2
[[ -r $image/manifest.json ]] || die "$image contains no image: run images/debian-12/build.sh $image first"
mbr=/usr/lib/syslinux/mbr/mbr.bin
missing=()
for pair in syslinux:syslinux mformat:mtools qemu-img:qemu-utils; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
[[ -r $mbr ]] || missing+=(syslinux-common)
((${#missing[@]} == 0)) || die "missing on this host, please run: apt-get install -y ${missing[*]}"

work=$(mktemp -d "$(dirname "$out")/.self-booting.XXXXXX")
trap 'rm -rf "$work"' EXIT
append=$(sed -n 's/.*"append": "\([^"]*\)".*/\1/p' "$image/manifest.json")

# partition FLAG TYPE START LENGTH: an entry of the partition table, in sectors; cylinders and heads are not used.
partition() {
  local value
  printf "\\x$1\\0\\0\\0\\x$2\\0\\0\\0"
  for value in "$3" "$4"; do
    printf "$(printf '\\x%02x' $((value & 255)) $((value >> 8 & 255)) $((value >> 16 & 255)) $((value >> 24)))"
  done
}

boot_mib=64
truncate -s "${boot_mib}M" "$work/boot"
mformat -i "$work/boot" -v BOOT -H 2048 ::
printf 'DEFAULT linux\nLABEL linux\n  KERNEL kernel\n  INITRD initrd\n  APPEND root=/dev/vda2 %s\n' "$append" >"$work/syslinux.cfg"
mcopy -i "$work/boot" "$image/kernel" "$image/initrd" "$work/syslinux.cfg" ::
syslinux --install "$work/boot"

qemu-img convert -O raw "$image/disk.qcow2" "$work/root"
root_mib=$(($(stat -c %s "$work/root") >> 20))
truncate -s "$((1 + boot_mib + root_mib))M" "$work/disk"
{
  head -c 440 "$mbr"
  printf '\0\0\0\0\0\0' # disk id
  partition 80 0c "$((1 << 11))" "$((boot_mib << 11))"
  partition 00 83 "$(((1 + boot_mib) << 11))" "$((root_mib << 11))"
  head -c 32 /dev/zero
  printf '\x55\xaa'
} | dd of="$work/disk" conv=notrunc status=none
dd if="$work/boot" of="$work/disk" bs=1M seek=1 conv=notrunc,sparse status=none
dd if="$work/root" of="$work/disk" bs=1M seek="$((1 + boot_mib))" conv=notrunc,sparse status=none
qemu-img convert -f raw -O qcow2 "$work/disk" "$work/qcow2"
mv "$work/qcow2" "$out"
