#!/bin/bash
# debian-12: Debian 12 with systemd, cloud-init and sshd, built with mmdebstrap; rootfs/ contains the project's own files. The
# guest boots directly from kernel and initrd like micro-linux, which saves seconds. The kernel is not an installed package of
# the guest, because an upgrade would remove the modules of the running kernel: the image contains them in /usr/lib/modules.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
begin debian-12 "${1:-}"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
need mmdebstrap:mmdebstrap mke2fs:e2fsprogs qemu-img:qemu-utils fakeroot:fakeroot depmod:kmod cpio:cpio lz4:lz4 zstd:zstd
[[ -r $keyring ]] || die "Debian's signing keys are missing on this host, please run: ${sudo}apt-get install -y debian-archive-keyring"
mode=root
if ((EUID != 0)); then
  mode=unshare
  need newuidmap:uidmap
  user=$(id -un 2>/dev/null) || true
  grep -qs "^$user:" /etc/subuid ||
    die "an ordinary user needs a range of user IDs to build this image, please run: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $user"
fi

disk_bytes=$((2 << 30))
packages=(
  systemd-sysv udev dbus libpam-systemd systemd-resolved cloud-init openssh-server sudo
  ca-certificates curl e2fsprogs iproute2 iputils-ping kmod less netbase procps vim-tiny busybox-static
)

# The host's mirror if it has bookworm, otherwise the default of mmdebstrap, deb.debian.org.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
  awk -v key="$keyring" '$2 ~ /^bookworm(-updates|-security)?$/ && $3 == "main" { print "deb [signed-by=" key "] " $1 " " $2 " main" }' | sort -u) || mirror=''
grep -q ' bookworm main$' <<<"$mirror" || mirror=''

# Unpacks the kernel in the new system ($1) with the host's apt and the apt sources of the new system.
# shellcheck disable=SC2016
kernel_hook='
  cd "$1/boot"
  export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
  kernel=$(apt-cache depends linux-image-cloud-amd64 | awk "/Depends: linux-image-[0-9]/ { print \$2 }" | head -n 1)
  apt-get -qq -o APT::Sandbox::User=root download "$kernel"
  dpkg-deb -x "$kernel"_*.deb unpacked
  dpkg-deb -W "$kernel"_*.deb >source
  mkdir -p ../usr/lib/modules
  mv unpacked/lib/modules/* ../usr/lib/modules/
  mv unpacked/boot/vmlinuz-* .
  rm -r unpacked "$kernel"_*.deb
'

# Converts messages of mmdebstrap to progress lines and copies all its output to standard error.
report() {
  local line
  while IFS= read -r line; do
    case $line in
      'I: downloading packages'*) progress 0.10 'downloading the packages' ;;
      'I: extracting archives'*) progress 0.20 'unpacking the base system' ;;
      'I: installing essential'*) progress 0.25 'installing the base system' ;;
      'I: installing remaining'*) progress 0.35 'installing systemd, cloud-init and sshd' ;;
      'I: running --customize-hook'*) progress 0.60 'unpacking the kernel' ;;
      'I: creating tarball'*) progress 0.65 'filling the root file system' ;;
    esac
    printf '%s\n' "$line" >&2
  done
}

progress 0.02 'reading the package lists'
# fakeroot does not support file capabilities. Debian uses them only for ping, which needs none with 50-ping.conf.
step='building the system with mmdebstrap'
root=$work/root
mkdir "$root"
{
  # shellcheck disable=SC2086
  printf '%s\n' "$mirror" | TMPDIR=$work mmdebstrap --mode="$mode" --variant=minbase --architectures=amd64 --keyring="$keyring" --format=tar \
    --include="$(IFS=,; echo "${packages[*]}")" --customize-hook="set -e; $kernel_hook" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    bookworm - ${mirror:+-} 2>&3 | as_root tar -x -p --numeric-owner --exclude='./dev/*' -C "$root"
} 3> >(report)
step='configuring the guest'

as_root cp -r "$images/debian-12/rootfs/." "$root/"
as_root tee "$root/etc/apt/sources.list" >/dev/null <<'SOURCES'
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
SOURCES
: | as_root tee "$root/etc/machine-id" "$root/etc/hostname" >/dev/null
as_root bash -euc '
  cd "$1/etc"
  rm -f ssh/ssh_host_* resolv.conf ../var/lib/dbus/machine-id
  ln -s ../run/systemd/resolve/stub-resolv.conf resolv.conf
  cd systemd/system
  # A guest without a screen that is often recreated does not need these units; each delays the boot by a fraction of a second.
  for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    getty@tty1.service serial-getty@ttyS0.service systemd-binfmt.service; do
    ln -sf /dev/null "$unit"
  done
  mkdir -p multi-user.target.wants network-online.target.wants sockets.target.wants sysinit.target.wants
  ln -sf /lib/systemd/system/systemd-networkd.service multi-user.target.wants/
  ln -sf /lib/systemd/system/systemd-networkd.service dbus-org.freedesktop.network1.service
  ln -sf /lib/systemd/system/systemd-networkd.socket sockets.target.wants/
  ln -sf /lib/systemd/system/systemd-networkd-wait-online.service network-online.target.wants/
' configure "$root"

progress 0.75 'making the initrd'
version=$(basename "$(echo "$root"/boot/vmlinuz-*)")
version=${version#vmlinuz-}
install -m 644 "$root/boot/vmlinuz-$version" "$out/kernel"
source="$(tr "\t" " " <"$root/boot/source"), $(awk '/^Package: (systemd|cloud-init|openssh-server)$/ { name = $2 } name && /^Version:/ { printf "%s%s %s", mark, name, $2; mark = ", "; name = "" }' "$root/var/lib/dpkg/status")"
make_initrd "$root" "$version" "$root/bin/busybox"
as_root rm "$root/boot/vmlinuz-$version" "$root/boot/source"

progress 0.80 'making the disk'
make_disk "$root" "$disk_bytes" -c -o compression_type=zstd

make_manifest "$disk_bytes" nocloud 'console=ttyS0 quiet mitigations=off cryptomgr.notests rcupdate.rcu_expedited=1 no5lvl' "$source"
progress 1 'debian-12 is ready'
