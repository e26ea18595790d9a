# What the recipes share. A recipe sources this file, then calls `begin NAME OUTPUT_DIR` before anything else.
#
# Packages are downloaded and unpacked, never installed: a kernel package that is installed changes the boot menu of
# the host. File owners matter inside a guest's disk, so the trees are written by `as_root`: fakeroot for an ordinary user.

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
  (($1 == 0)) || [[ -n $explained ]] || printf '%s: failed while %s; the lines above say why\n' "$recipe" "$step" >&2
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

# The word before a command which needs root.
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

# A fresh machine has no package lists, an old one may have stale ones; only root can renew them.
refresh_lists() {
  if ((EUID == 0)); then
    apt-get "${apt_options[@]}" update >&2 || true # one broken third-party source must not stop us
  else
    die "$1; please run: sudo apt-get update"
  fi
}

# fetch PACKAGE...: downloads from the host's own apt sources and unpacks all into $work/packages.
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

# "name version, name version" of what was fetched.
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

# make_initrd TREE KERNEL_VERSION BUSYBOX: the drivers of a QEMU guest and initrd/init, as $out/initrd.
# Ubuntu's kernel has many of these built in and compresses the others, which busybox cannot load: unpacked here.
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
  while read -r how path _; do
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

# make_disk TREE BYTES [CONVERT_OPTION...]: the tree as $out/disk.qcow2. An instance's overlay is larger than this disk and
# its file system grows at first boot, hence the room for group descriptors (-E resize: 1 TiB of 4 KiB blocks).
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
