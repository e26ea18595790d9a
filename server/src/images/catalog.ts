import type { ImageSource } from './source.ts'

/** An image that every environment can use. */
export type CatalogImage = { id: string; name: string; description: string; source: ImageSource }

/** The images of a new installation. Their guests signal that they are ready and permit the login of `root`. */
export const CATALOGUE: CatalogImage[] = [
  {
    id: 'img_microlinux',
    name: 'micro-linux',
    description:
      'Linux kernel, busybox and dropbear; boots in seconds. Built on the host from the packages of its distribution.',
    source: { kind: 'recipe', recipe: 'micro-linux' },
  },
  {
    id: 'img_debian0012',
    name: 'debian-12',
    description: 'Debian 12 with systemd, cloud-init and sshd. Built on the host when it is first used.',
    source: { kind: 'recipe', recipe: 'debian-12' },
  },
  {
    id: 'img_ubuntu2204',
    name: 'ubuntu-22.04-lts',
    description: "Ubuntu 22.04 LTS, the publisher's cloud image. Downloaded when it is first used.",
    source: {
      kind: 'publisher',
      publisher: 'ubuntu',
      path: 'jammy/current',
      file: 'jammy-server-cloudimg-amd64.img',
    },
  },
  {
    id: 'img_ubuntu2404',
    name: 'ubuntu-24.04-lts',
    description: "Ubuntu 24.04 LTS, the publisher's cloud image. Downloaded when it is first used.",
    source: {
      kind: 'publisher',
      publisher: 'ubuntu',
      path: 'noble/current',
      file: 'noble-server-cloudimg-amd64.img',
    },
  },
]
