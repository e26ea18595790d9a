#!/bin/bash
# micro-linux: a minimal guest with a shell and ssh. Kernel, busybox and dropbear are from the Debian or Ubuntu packages of
# the host; the root file system is ext4; the seed is fw_cfg; rootfs/ contains the project's own files.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
begin micro-linux "${1:-}"
need mke2fs:e2fsprogs qemu-img:qemu-utils fakeroot:fakeroot depmod:kmod cpio:cpio lz4:lz4 zstd:zstd xz:xz-utils

disk_bytes=$((64 << 20))
parts=(busybox-static dropbear-bin libtommath1 libtomcrypt1 libgmp10 openssh-sftp-server)

# dependency PACKAGE KIND: the versioned package of this kind that the package depends on, if any.
dependency() {
  { apt-cache depends "$1" 2>/dev/null || true; } | awk -v kind="^$2-[0-9]" '$1 ~ /Depends:$/ && $2 ~ kind && !found++ { print $2 }'
}

# Debian's cloud kernel is one package. Ubuntu's meta package for guests is linux-image-virtual; the drivers of its kernel are
# in a separate package.
kernel_packages() {
  local meta image
  for meta in linux-image-cloud-amd64 linux-image-virtual; do
    image=$(dependency "$meta" linux-image)
    [[ -n $image ]] || continue
    echo "$image"
    dependency "$image" linux-modules
    return
  done
}

progress 0.02 'looking up the packages'
mapfile -t kernel < <(kernel_packages)
if ((${#kernel[@]} == 0)) || ! known dropbear-bin; then
  refresh_lists 'the package lists of this host lack the kernel or dropbear-bin'
  mapfile -t kernel < <(kernel_packages)
  ((${#kernel[@]} > 0)) || die 'no linux-image-cloud-amd64 (Debian) or linux-image-virtual (Ubuntu) in the apt sources: add the main section of your distribution, then run: apt-get update'
  known dropbear-bin || die 'no dropbear-bin in the apt sources: on Ubuntu add the universe section, then run: apt-get update'
fi

progress 0.05 "downloading ${kernel[0]}, busybox and dropbear"
fetch "${kernel[@]}" "${parts[@]}"

progress 0.35 'unpacking the packages'
unpack
packages=$work/packages
[[ -d $packages/lib/modules ]] || ln -sfn usr/lib "$packages/lib"
version=$(basename "$(echo "$packages"/boot/vmlinuz-*)")
version=${version#vmlinuz-}
busybox=$(find "$packages" -name busybox -type f -perm -u+x | head -n 1)
install -m 644 "$packages/boot/vmlinuz-$version" "$out/kernel"

progress 0.60 'making the initrd'
make_initrd "$packages" "$version" "$busybox"

progress 0.75 'filling the root file system'
root=$work/root
mkdir -p "$root"/{boot,dev,etc/dropbear,mnt,proc,root,run,srv,sys,tmp,usr/bin,usr/lib,usr/lib64,usr/local/bin,var/lib/cloudnexus,var/log,var/tmp}
chmod 700 "$root/root" && chmod 1777 "$root/tmp" "$root/var/tmp"
for name in bin sbin; do ln -s usr/bin "$root/$name"; done
ln -s bin "$root/usr/sbin"
ln -s usr/lib "$root/lib" && ln -s usr/lib64 "$root/lib64"
ln -s ../run "$root/var/run" && ln -s ../proc/mounts "$root/etc/mtab"

install -m 755 "$busybox" "$root/usr/bin/busybox"
for applet in $("$busybox" --list); do [[ $applet == busybox ]] || ln -s busybox "$root/usr/bin/$applet"; done
for applet in acpid httpd init ip nc switch_root syslogd udhcpc usleep vi wget; do
  [[ -L $root/usr/bin/$applet ]] || die "this host's busybox-static has no $applet; micro-linux needs the one of Debian 12, Ubuntu 22.04 or newer"
done

# add_program FILE PATH: adds a program and its shared libraries, from the downloaded packages or, if they do not contain a
# library, from the host, which has the same release. LD_LIBRARY_PATH is relative, because colons and semicolons separate
# its folders.
add_program() {
  install -D -m 755 "$1" "$root$2"
  (
    cd "$packages"
    LD_LIBRARY_PATH=usr/lib/x86_64-linux-gnu ldd "$1" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' |
      while read -r library; do
        [[ -f $library ]] || die "the library $library of $2 is missing"
        install -D -m 755 "$library" "$root/usr/lib/x86_64-linux-gnu/$(basename "$library")"
      done
  )
}
add_program "$packages/usr/sbin/dropbear" /usr/bin/dropbear
add_program "$packages/usr/bin/dropbearkey" /usr/bin/dropbearkey
add_program "$packages/usr/lib/openssh/sftp-server" /usr/lib/sftp-server
add_program "$(command -v resize2fs)" /usr/bin/resize2fs
ln -s ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$root/usr/lib64/ld-linux-x86-64.so.2"

cp -r "$images/micro-linux/rootfs/." "$root/"
chmod 755 "$root"/usr/lib/cloudnexus/* "$root/etc/acpi/PWRF/00000080" "$root/etc/udhcpc/default.script" "$root/usr/bin/bash"

progress 0.85 'making the disk'
make_disk "$root" "$disk_bytes"

# No panic= option: pvpanic reports a panic to the host, and the guest must not reboot by itself.
make_manifest "$disk_bytes" fw_cfg 'console=ttyS0 quiet mitigations=off cryptomgr.notests rcupdate.rcu_expedited=1 no5lvl' \
  "$(fetched_versions), e2fsprogs $(dpkg-query -W -f '${Version}' e2fsprogs)"
progress 1 'micro-linux is ready'
