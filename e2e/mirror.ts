import { createHash } from 'node:crypto'
import { createReadStream, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from './control-plane.ts'

/** A mirror of cloud images on loopback, with a signed list of checksums. */
export class Mirror {
  readonly folder = mkdtempSync(join(tmpdir(), 'cn-mirror-'))
  readonly keyring = join(this.folder, 'keyring.gpg')
  fingerprint = ''
  url = ''
  /** Whether images are truncated, as after a broken upload. */
  truncates = false
  private readonly gnupg = join(this.folder, 'gnupg')
  private server: Server | null = null

  /** Starts the server; again on the same port after `stop`. */
  async start(): Promise<void> {
    if (!this.fingerprint) await this.makeKey()
    const server = createServer((request, response) => {
      const path = join(this.folder, 'files', request.url!.split('?')[0]!)
      let size: number
      try {
        size = statSync(path).size
      } catch {
        return void response.writeHead(404).end()
      }
      const length = this.truncates && path.endsWith('.img') ? Math.floor(size / 2) : size
      response.writeHead(200, { 'content-length': length })
      createReadStream(path, { end: length - 1 }).pipe(response)
    })
    const port = this.url ? Number(new URL(this.url).port) : 0
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
    this.server = server
    this.url = `http://127.0.0.1:${(server.address() as { port: number }).port}`
  }

  /** Copies an image into a folder of the mirror and signs the list of the folder. */
  async publish(folder: string, name: string, image: string): Promise<void> {
    const to = join(this.folder, 'files', folder)
    mkdirSync(to, { recursive: true })
    await run('cp', ['--reflink=auto', image, join(to, name)])
    await this.sign(
      folder,
      name,
      createHash('sha256')
        .update(readFileSync(join(to, name)))
        .digest('hex'),
    )
  }

  /** Signs a list with this checksum of the file, correct or not. */
  async sign(folder: string, name: string, sha256: string): Promise<void> {
    const list = join(this.folder, 'files', folder, 'SHA256SUMS')
    writeFileSync(list, `${'0'.repeat(64)} *other.img\n${sha256} *${name}\n`)
    rmSync(`${list}.gpg`, { force: true })
    await run('gpg', ['--homedir', this.gnupg, '--batch', '--detach-sign', '--output', `${list}.gpg`, list])
  }

  async stop(): Promise<void> {
    this.server?.closeAllConnections()
    await new Promise((resolve) => this.server?.close(resolve))
  }

  async remove(): Promise<void> {
    if (this.server?.listening) await this.stop()
    await run('gpgconf', ['--homedir', this.gnupg, '--kill', 'all']).catch(() => {})
    rmSync(this.folder, { recursive: true, force: true })
  }

  private async makeKey(): Promise<void> {
    mkdirSync(this.gnupg, { mode: 0o700 })
    const gpg = (...args: string[]) => run('gpg', ['--homedir', this.gnupg, '--batch', '--passphrase', '', ...args])
    await gpg('--quick-generate-key', 'mirror@test', 'ed25519', 'sign', 'never')
    this.fingerprint = /^fpr:+([0-9A-F]{40}):/m.exec(await gpg('--list-keys', '--with-colons'))![1]!
    await gpg('--output', this.keyring, '--export')
  }
}
