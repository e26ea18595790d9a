# The functions that the recipes share. A recipe sources this file and then calls `begin NAME OUTPUT_DIR`.
#
# Packages are downloaded and unpacked, never installed, because the installation of a kernel package would change the boot
# menu of the host. Files of a guest need owners, so trees are written with `as_root`, which is fakeroot for an ordinary user.

PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C
umask 022
images=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# begin NAME OUTPUT_DIR: sets $out and $work (same file system, removed at the end).
begin() {
  recipe=$1 step='starting' explained=''
  [[ -n ${2:-} ]] || die "usage: images/$recipe/build.sh OUTPUT_DIR"
  mkdir -p "$2"
  out=$(cd "$2" && pwd)
  work=$(mktemp -d "$out/.build.XXXXXX")
  chmod 755 "$work"
  trap 'end $?' EXIT
  [[ $(dpkg --print-architecture 2>/dev/null) == amd64 ]] || die 'this recipe needs a Debian or Ubuntu host on amd64 (x86_64)'
}

end() {
  rm -rf "$work"
  (($1 == 0)) || [[ -n $explained ]] || printf '%s: failed while %s; the lines above give the reason\n' "$recipe" "$step" >&2
}

progress() {
  step=$2
  printf 'progress %s %s\n' "$1" "$2"
}

die() {
  explained=yes
  printf '%s: %s\n' "$recipe" "$*" >&2
  exit 1
}

# The prefix of a command that needs root.
sudo=''
((EUID == 0)) || sudo='sudo '

# need TOOL:PACKAGE...
need() {
  local pair missing=()
  for pair; do command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}"); done
  ((${#missing[@]} == 0)) || die "missing on this host, please run: ${sudo}apt-get install -y ${missing[*]}"
}

apt_options=(-qq -o APT::Sandbox::User=root -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30)

known() { apt-cache show "$1" >/dev/null 2>&1; }

# The package lists may be missing or stale; only root can update them.
refresh_lists() {
  if ((EUID == 0)); then
    apt-get "${apt_options[@]}" update >&2 || true # a broken third-party source is not fatal
  else
    die "$1; please run: sudo apt-get update"
  fi
}

# fetch PACKAGE...: downloads packages from the apt sources of the host to $work/debs.
fetch() {
  mkdir -p "$work/debs" "$work/packages"
  (cd "$work/debs" && apt-get "${apt_options[@]}" download "$@") >&2 || {
    refresh_lists "could not download $*"
    (cd "$work/debs" && apt-get "${apt_options[@]}" download "$@") >&2 ||
      die "could not download $*: check /etc/apt/sources.list and the network"
  }
}

unpack() {
  local deb
  for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/packages"; done
}

# The fetched packages as "name version, name version".
fetched_versions() {
  local deb
  for deb in "$work"/debs/*.deb; do dpkg-deb -W --showformat='${Package} ${Version}, ' "$deb"; done | sed 's/, $//'
}

as_root() {
  if ((EUID == 0)); then
    "$@"
  else
    touch "$work/owners"
    fakeroot -i "$work/owners" -s "$work/owners" -- "$@"
  fi
}

# make_initrd TREE KERNEL_VERSION BUSYBOX: writes initrd/init and the drivers of a QEMU guest to $out/initrd. Ubuntu's kernel
# has many of the drivers built in and compresses the others; busybox cannot load compressed modules, so they are unpacked.
make_initrd() {
  local tree=$1 version=$2 busybox=$3 root=$work/initrd applet module how path
  local essential=(pvpanic virtio_pci virtio_blk ext4 virtio_net virtio_console qemu_fw_cfg button evdev)
  local useful=(pvpanic-pci virtio-rng virtio_balloon)
  mkdir -p "$root"/{bin,dev,proc,sys,root,modules}
  install -m 755 "$busybox" "$root/bin/busybox"
  for applet in sh mount insmod usleep switch_root; do ln -s busybox "$root/bin/$applet"; done
  install -m 755 "$images/initrd/init" "$root/init"
  as_root depmod -b "$tree" "$version"
  for module in "${essential[@]}" "${useful[@]}"; do
    modprobe -C /dev/null -d "$tree" -S "$version" --show-depends "$module" 2>/dev/null || echo "absent $module"
  done | awk '!seen[$0]++' >"$work/modules"
  # A line is `insmod PATH`, and the path can contain spaces.
  while read -r how path; do
    case $how in
      builtin) ;;
      absent) [[ " ${useful[*]} " == *" $path "* ]] || die "kernel $version has no driver $path" ;;
      insmod)
        module=$(basename "${path%%.ko*}")
        case $path in
          *.zst) zstd -q -d -c "$path" ;;
          *.xz) xz -d -c "$path" ;;
          *.gz) gzip -d -c "$path" ;;
          *) cat "$path" ;;
        esac >"$root/modules/$module.ko"
        echo "$module" >>"$root/modules/order"
        ;;
    esac
  done <"$work/modules"
  touch "$root/modules/order"
  (cd "$root" && find . -print0 | sort -z | cpio --null -o -H newc -R 0:0 --quiet --reproducible) | lz4 -l -9 -q -c >"$out/initrd"
}

# make_disk TREE BYTES [CONVERT_OPTION...]: writes the tree to $out/disk.qcow2. The file system grows at the first boot, so
# group descriptors are reserved for 1 TiB (-E resize, in 4 KiB blocks).
make_disk() {
  local tree=$1 bytes=$2
  shift 2
  as_root mke2fs -q -t ext4 -L root -b 4096 -I 256 -m 1 -d "$tree" \
    -E "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1,nodiscard,resize=268435456" "$work/disk.raw" "$((bytes / 1024))k" >/dev/null
  qemu-img convert -f raw -O qcow2 "$@" "$work/disk.raw" "$out/disk.qcow2"
}

# make_manifest BYTES SEED APPEND SOURCE
make_manifest() {
  cat >"$out/manifest.json" <<JSON
{
  "format": "qcow2",
  "virtual_size_bytes": $1,
  "boot": { "kernel": "kernel", "initrd": "initrd", "append": "$3" },
  "seed": "$2",
  "ready_signal": "guest",
  "ssh_user": "root",
  "source": "$4"
}
JSON
}
